"""What does not exist here: one 404 `unknown_url_error`, over HTTP and where a WebSocket was asked
for.
"""

from app.errors import UnknownUrl
from app.gateway.http.asgi import Receive, Scope, Send, encode_header_pairs
from app.openai_api.endpoints import ENDPOINTS
from app.protocol.request_id import new_refused_id

_MAX_PATH_CHARS = 200  # characters of a path
# https://asgi.readthedocs.io/en/latest/extensions.html
_WEBSOCKET_RESPONSE = "websocket.http.response"


def unknown_url_error(method: str, path: str) -> UnknownUrl:
    """Return the error for an address below /v1 at which OpenAI's API may have something and this
    gateway has not.
    """
    shown_path = path if path.isprintable() else repr(path)
    if path.removeprefix("/v1") in ENDPOINTS:
        explanation = "Only POST is served here"
    else:
        explanation = (
            "This gateway keeps no files, batches, threads, responses or other objects; "
            "/docs lists what it serves,"
            " and a model's entry may add more (`paths`)"
        )
    return UnknownUrl(
        f"Unknown request URL: {method} {shown_path[:_MAX_PATH_CHARS]}. {explanation}."
    )


def missing_base_error(method: str, path: str) -> UnknownUrl:
    """Return the error for any other address: with a hint where only the API's base is missing."""
    path_without_slash = path.rstrip("/")
    is_api_path = (
        path_without_slash in ENDPOINTS
        or path_without_slash == "/models"
        or path_without_slash.startswith(("/models/", "/requests/"))
    )
    hint = (
        f". Did you mean /v1{path_without_slash}? A client's base_url ends with /v1"
        if is_api_path
        else ""
    )
    return UnknownUrl(f"Unknown request URL: {method} {path[:_MAX_PATH_CHARS]}{hint}")


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a WebSocket's opening handshake: a 404 with a body where the server can send one, else
    a bare refusal.
    """
    await receive()  # websocket.connect
    if _WEBSOCKET_RESPONSE not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})  # before it is accepted: the server answers 403
        return
    error = unknown_url_error("WebSocket", scope["path"])
    headers = encode_header_pairs((*error.build_headers(), ("x-request-id", new_refused_id())))
    await send({"type": f"{_WEBSOCKET_RESPONSE}.start", "status": error.status, "headers": headers})
    await send({"type": f"{_WEBSOCKET_RESPONSE}.body", "body": error.encode_body()})
