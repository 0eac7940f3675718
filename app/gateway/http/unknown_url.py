"""What does not exist here: one 404 `unknown_url`, over HTTP and where a WebSocket was asked
for.
"""

from app.errors import UnknownUrl
from app.gateway.http.asgi import Receive, Scope, Send, raw
from app.openai_api.endpoints import ENDPOINTS
from app.protocol.request_id import new_refused_id

_SHOWN = 200  # characters of a path
_REJECTION = "websocket.http.response"  # https://asgi.readthedocs.io/en/latest/extensions.html


def unknown_url(method: str, path: str) -> UnknownUrl:
    """Return the error for an address below /v1 at which OpenAI's API may have something and this
    gateway has not.
    """
    shown = path if path.isprintable() else repr(path)
    if path.removeprefix("/v1") in ENDPOINTS:
        why = "Only POST is served here"
    else:
        why = (
            "This gateway keeps no files, batches, threads, responses or other objects; "
            "/docs lists what it serves,"
            " and a model's entry may add more (`paths`)"
        )
    return UnknownUrl(f"Unknown request URL: {method} {shown[:_SHOWN]}. {why}.")


def without_base(method: str, path: str) -> UnknownUrl:
    """Return the error for any other address: with a hint where only the API's base is missing."""
    bare = path.rstrip("/")
    known = bare in ENDPOINTS or bare == "/models" or bare.startswith(("/models/", "/requests/"))
    hint = f". Did you mean /v1{bare}? A client's base_url ends with /v1" if known else ""
    return UnknownUrl(f"Unknown request URL: {method} {path[:_SHOWN]}{hint}")


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a WebSocket's opening handshake: a 404 with a body where the server can send one, else
    a bare refusal.
    """
    await receive()  # websocket.connect
    if _REJECTION not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})  # before it is accepted: the server answers 403
        return
    error = unknown_url("WebSocket", scope["path"])
    headers = raw((*error.build_headers(), ("x-request-id", new_refused_id())))
    await send({"type": f"{_REJECTION}.start", "status": error.status, "headers": headers})
    await send({"type": f"{_REJECTION}.body", "body": error.encode_body()})
