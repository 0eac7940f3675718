"""Which web pages may call the API from a browser:
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from app.gateway.http.asgi import App

_MAX_AGE_SECONDS = 600  # seconds that a browser may remember the answer to its question


def with_cors(app: App, origins: Sequence[str]) -> App:
    """Return the application, which serves web pages of these origins too (`*`: of any).

    A page sends its key itself, so no cookies are allowed. A page of the internet may reach a
    gateway in a private network: Chromium asks with Access-Control-Request-Private-Network
    (https://wicg.github.io/private-network-access/).
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        allow_private_network=True,
        expose_headers=["*"],
        max_age=_MAX_AGE_SECONDS,
    )
