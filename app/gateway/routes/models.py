"""GET /v1/models and /v1/models/{id}: the models that the caller may use, with how busy each is.

Clients of Anthropic's API, which have the same paths, get its shapes. 503 while the models are not
known.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from app.cluster.model_registry import ModelState
from app.gateway.access.authentication import Caller
from app.gateway.gateway import Gateway
from app.gateway.http.api_dialect import speaks_anthropic
from app.gateway.http.unknown_url import unknown_url
from app.gateway.routes.anthropic_models import anthropic_page, described_to_anthropic


def routes(gateway: Gateway) -> list[BaseRoute]:
    async def every(request: Request) -> JSONResponse:
        gateway.admission.refuse_if_unready()
        caller: Caller = request.state.caller
        allowed = [
            known for known in gateway.model_registry.all() if caller.may_use(known.card.names)
        ]
        if speaks_anthropic(request.scope):
            return JSONResponse(anthropic_page(allowed, request.query_params))
        return JSONResponse({"object": "list", "data": [described(known) for known in allowed]})

    async def one(request: Request) -> JSONResponse:
        gateway.admission.refuse_if_unready()
        name, caller = request.path_params["model"], request.state.caller
        if not name:
            raise unknown_url("GET", "/v1/models/")
        known = gateway.admission.model(name)
        caller.refuse_unless_allowed(known.card.names, name)
        return JSONResponse(
            described_to_anthropic(known) if speaks_anthropic(request.scope) else described(known)
        )

    return [Route("/v1/models", every), Route("/v1/models/{model:path}", one)]


def described(known: ModelState) -> dict[str, Any]:
    """OpenAI's model object, with what is ours beside it."""
    return {
        "id": known.card.model,
        "object": "model",
        "created": known.card.created,
        "owned_by": known.card.owned_by,
        "aliases": list(known.card.aliases),
        "workers": len(known.serving),
        "reason": known.why_unserved or None,
        "capacity": known.capacity,
        "in_flight": known.in_flight,
        "queue_depth": known.queue_depth,
    }
