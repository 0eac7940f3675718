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
from app.gateway.http.api_dialect import is_anthropic_request
from app.gateway.http.unknown_url import unknown_url_error
from app.gateway.routes.anthropic_models import build_anthropic_page, describe_model_for_anthropic


def routes(gateway: Gateway) -> list[BaseRoute]:
    async def list_models(request: Request) -> JSONResponse:
        gateway.admission.refuse_if_unready()
        caller: Caller = request.state.caller
        allowed = [
            model_state
            for model_state in gateway.model_registry.all()
            if caller.can_use_model(model_state.card.names)
        ]
        if is_anthropic_request(request.scope):
            return JSONResponse(build_anthropic_page(allowed, request.query_params))
        return JSONResponse(
            {"object": "list", "data": [describe_model(known) for known in allowed]}
        )

    async def get_model(request: Request) -> JSONResponse:
        gateway.admission.refuse_if_unready()
        name, caller = request.path_params["model"], request.state.caller
        if not name:
            raise unknown_url_error("GET", "/v1/models/")
        model_state = gateway.admission.get_model(name)
        caller.refuse_unless_allowed(model_state.card.names, name)
        return JSONResponse(
            describe_model_for_anthropic(model_state)
            if is_anthropic_request(request.scope)
            else describe_model(model_state)
        )

    return [Route("/v1/models", list_models), Route("/v1/models/{model:path}", get_model)]


def describe_model(model_state: ModelState) -> dict[str, Any]:
    """OpenAI's model object, with what is ours beside it."""
    return {
        "id": model_state.card.model,
        "object": "model",
        "created": model_state.card.created,
        "owned_by": model_state.card.owned_by,
        "aliases": list(model_state.card.aliases),
        "workers": len(model_state.serving),
        "reason": model_state.why_unserved or None,
        "capacity": model_state.capacity,
        "in_flight": model_state.in_flight,
        "queue_depth": model_state.queue_depth,
    }
