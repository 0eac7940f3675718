"""Whose API a client speaks, as far as our own answers differ: OpenAI's or Anthropic's."""

from app.errors import GatewayError
from app.gateway.http.asgi import RawHeaders, Scope, header
from app.openai_api import anthropic
from app.openai_api.endpoints import ENDPOINTS

_OF_ANTHROPIC = frozenset(f"/v1{path}" for path, row in ENDPOINTS.items() if row.is_anthropic)
_MODELS = "/v1/models"  # both APIs have it


def speaks_anthropic(scope: Scope) -> bool:
    """Return whether the request is one of Anthropic's API. Its path may still have the other base,
    /api/v1.
    """
    path: str = scope["path"].removeprefix("/api")
    if path in _OF_ANTHROPIC:
        return True
    return path.startswith(_MODELS) and bool(header(scope, anthropic.VERSION_HEADER))


def error_body(scope: Scope, error: GatewayError) -> bytes:
    """Return an error as a body of the API that the client speaks."""
    return anthropic.encode_error_body(error) if speaks_anthropic(scope) else error.encode_body()


def with_request_id(headers: RawHeaders) -> RawHeaders:
    """Add `request-id`, which Anthropic's SDK reads, with the value of x-request-id."""
    return [
        *headers,
        *((b"request-id", value) for name, value in headers if name == b"x-request-id"),
    ]
