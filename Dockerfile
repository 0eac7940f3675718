# The gateway. Up to USER the same lines as app/agent/Dockerfile, so that both images share their layers.
FROM python:3.11-slim AS build
WORKDIR /build
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes --prefix=/install -r requirements.txt
COPY app app
RUN python -m compileall -q --invalidation-mode unchecked-hash app

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /install /usr/local
WORKDIR /srv
COPY --from=build /build/app app
USER 10001

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# --no-proxy-headers: the application decides itself whom it believes (TRUSTED_PROXIES). --timeout-keep-alive: longer
# than nginx keeps an idle connection (60 s). --http: limits on what a client sends before it is a request. No
# --timeout-graceful-shutdown: the application drains itself.
CMD ["uvicorn", "app.main:application", "--http", "app.gateway.http.connection:Connection", "--host", "0.0.0.0", "--port", "8000", "--no-server-header", "--no-proxy-headers", "--timeout-keep-alive", "75"]
