"""Whose API a client speaks, as far as our own answers differ: OpenAI's or Anthropic's."""

from app.errors import GatewayError
from app.gateway.http.asgi import RawHeaders, Scope, get_header
from app.openai_api import anthropic
from app.openai_api.endpoints import ENDPOINTS

_ANTHROPIC_PATHS = frozenset(f"/v1{path}" for path, row in ENDPOINTS.items() if row.is_anthropic)
_MODELS_PATH = "/v1/models"  # both APIs have it


def is_anthropic_request(scope: Scope) -> bool:
    """Return whether the request is one of Anthropic's API. Its path may still have the other base,
    /api/v1.
    """
    path: str = scope["path"].removeprefix("/api")
    if path in _ANTHROPIC_PATHS:
        return True
    return path.startswith(_MODELS_PATH) and bool(get_header(scope, anthropic.VERSION_HEADER))


def encode_error_body(scope: Scope, error: GatewayError) -> bytes:
    """Return an error as a body of the API that the client speaks."""
    return (
        anthropic.encode_error_body(error) if is_anthropic_request(scope) else error.encode_body()
    )


def add_request_id_header(headers: RawHeaders) -> RawHeaders:
    """Add `request-id`, which Anthropic's SDK reads, with the value of x-request-id."""
    return [
        *headers,
        *((b"request-id", value) for name, value in headers if name == b"x-request-id"),
    ]
