"""The endpoints of a request as a resource, one row each, and the headers that inference reads."""

from app.gateway.openapi import replies
from app.gateway.openapi.endpoint import MODEL_PLACEHOLDER, Endpoint, Parameter, Reply
from app.gateway.openapi.failures import REQUEST_ID_ERRORS

REQUEST_ID = "req_IsjeOxe9CoaLLjsIhEQpb90UMBoAAQAAAAAAAAAGAAAAAAAA"
REQUEST_EXAMPLE = {
    "id": REQUEST_ID,
    "object": "request",
    "status": "completed",
    "model": MODEL_PLACEHOLDER,
    "created_at": 1767225600,
    "queue_position": None,
    "estimated_wait_seconds": None,
    "attempts": 1,
    "worker": "c1e072471b01f0e1",
    "timings": {"queue_ms": 2.8, "upstream_ms": 151.3},
    "usage": {"prompt_tokens": 19, "completion_tokens": 5, "total_tokens": 24},
    "error": None,
}
ID_PATH_EXAMPLES = {
    "id": (
        "The id in the header x-request-id, or in the answer to Prefer: respond-async.",
        (REQUEST_ID,),
    )
}

INFERENCE_HEADERS = (
    Parameter(
        "Idempotency-Key",
        "header",
        "string",
        "The same request with the same key is run once: joined or replayed.",
    ),
    Parameter(
        "Prefer", "header", "string", "respond-async: 202 with the request as a resource, at once."
    ),
    Parameter(
        "X-Request-Timeout",
        "header",
        "number",
        "Seconds; shortens the server's deadline, never lengthens it.",
    ),
    Parameter(
        "X-Event-Ids", "header", "string", "1: each event of a stream gets its number as id."
    ),
    Parameter(
        "Last-Event-ID",
        "header",
        "integer",
        "With an Idempotency-Key: leave out the events up to this number.",
    ),
    Parameter(
        "X-Queue-Updates",
        "header",
        "string",
        "1: a stream tells its place in the queue as comments.",
    ),
)
ACCEPTED = Reply(
    replies.RequestResource,
    "Accepted; asked for with Prefer: respond-async.",
    REQUEST_EXAMPLE | {"status": "queued"},
)

REQUEST_ENDPOINTS = (
    Endpoint(
        "get",
        "/v1/requests/{id}",
        "Requests",
        "How far is a request?",
        "From any gateway, for the key that made it, for as long as its reply is kept.",
        {200: Reply(replies.RequestResource, "The request.", REQUEST_EXAMPLE)},
        REQUEST_ID_ERRORS,
        path_examples=ID_PATH_EXAMPLES,
    ),
    Endpoint(
        "get",
        "/v1/requests/{id}/result",
        "Requests",
        "A request's result",
        "The status and body that a waiting client gets; of a stream its whole text.",
        {
            200: Reply(replies.UpstreamReply, "The reply.", {"object": "chat.completion"}),
            202: Reply(
                replies.RequestResource,
                "Not finished yet.",
                REQUEST_EXAMPLE | {"status": "running"},
            ),
        },
        REQUEST_ID_ERRORS,
        path_examples=ID_PATH_EXAMPLES,
    ),
    Endpoint(
        "get",
        "/v1/requests/{id}/stream",
        "Requests",
        "A request's events, live",
        "The events after number `starting_after`, each with its `id:`, live to the end; "
        "a whole reply is one event and [DONE].",
        {
            200: Reply(
                replies.UpstreamReply,
                "The events.",
                {},
                replies.ChatCompletionChunk,
                ({"object": "chat.completion.chunk"},),
            )
        },
        REQUEST_ID_ERRORS,
        path_examples=ID_PATH_EXAMPLES,
        parameters=(
            Parameter(
                "starting_after", "query", "integer", "The number of the last event that you have."
            ),
        ),
    ),
    Endpoint(
        "post",
        "/v1/requests/{id}/cancel",
        "Requests",
        "Cancel a request",
        "Ends it, if it has not ended; the answer says how it ended.",
        {
            200: Reply(
                replies.RequestResource, "The request.", REQUEST_EXAMPLE | {"status": "cancelled"}
            )
        },
        REQUEST_ID_ERRORS,
        path_examples=ID_PATH_EXAMPLES,
    ),
)
