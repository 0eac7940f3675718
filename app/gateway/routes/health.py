"""GET /healthz: the process lives. GET /readyz: it serves, or why it does not."""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from app.gateway.gateway import Gateway


def routes(gateway: Gateway) -> list[BaseRoute]:
    async def healthz(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def readyz(_request: Request) -> JSONResponse:
        unserved = {
            model_state.card.model: model_state.why_unserved
            for model_state in gateway.model_registry.all()
            if not model_state.serving
        }
        reasons = gateway.unready_reasons()
        if gateway.settings.ready_requires_workers:
            reasons += [f"model {model}: {why}" for model, why in unserved.items()]
        document = {
            "ready": not reasons,
            "reasons": reasons,
            "unserved_models": unserved,
            "dependencies": await gateway.check_dependencies(),
        }
        return JSONResponse(document, status_code=503 if reasons else 200)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
