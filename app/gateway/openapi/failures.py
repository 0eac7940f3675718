"""The error bodies of each endpoint, by status. Their form, types and codes are the errors' own;
the messages are examples.
"""

from collections.abc import Iterable
from http import HTTPStatus
from itertools import groupby
from typing import Any, TypeAlias

import orjson

from app import errors
from app.errors import GatewayError

ErrorTypes: TypeAlias = tuple[type[GatewayError], ...]

SAMPLE_ERRORS: tuple[GatewayError, ...] = (
    errors.BadRequest(
        "messages[0].role: expected a string, got a number.", param="messages[0].role"
    ),
    errors.InvalidBody("The body is not valid JSON: unexpected end of data at line 1, column 14."),
    errors.InvalidForm("The body is not a valid form, at byte 120."),
    errors.UpgradeRefused(
        "this server reads no body of a request that asks for an upgrade; send it without"
    ),
    errors.UpstreamLoop(
        "The request came back through its own upstream: OPENAI_HOST points at this gateway."
    ),
    errors.InvalidApiKey("No API key was sent, or it is not one of this server's."),
    errors.AnonymousRefused(
        "This server has no API keys, so it serves only clients on its own machine."
    ),
    errors.ModelNotAllowed("This API key may not use the model 'gpt'.", param="model"),
    errors.ModelNotFound(
        "There is no model of this name; GET /v1/models lists those there are.", param="model"
    ),
    errors.RequestNotFound("There is no such request, or it is no longer kept.", param="id"),
    errors.UnknownUrl("The built-in demonstration model has no /rerank."),
    errors.MethodNotAllowed("This address does not take this method."),
    errors.BodyTooSlow("The request body did not come within 60 s."),
    errors.IdempotencyConflict(
        "This Idempotency-Key was used for another request.", param="Idempotency-Key"
    ),
    errors.RequestCancelled("The request was cancelled."),
    errors.BodyTooLarge("The body has more than the 16777216 bytes that this server takes."),
    errors.UnsupportedMedia("This endpoint takes JSON, no form."),
    errors.UnsupportedCoding(
        "the body's Content-Encoding 'br' is not known; send gzip, deflate or none"
    ),
    errors.HeadersTooLarge("The request line and headers are larger than 65536 bytes."),
    errors.QueueFull("Too many requests wait for this model.", retry_after_seconds=5),
    errors.TenantQueueFull(
        "600 of your requests already wait for this model.", retry_after_seconds=5
    ),
    errors.RateLimited(
        "60 requests a minute with this model are this key's limit.", retry_after_seconds=12
    ),
    errors.InternalError("The gateway failed; its log says why."),
    errors.DeadLettered(
        "This request ended every worker that ran it; it lies in the dead letters."
    ),
    errors.UpstreamAuthFailed("the server of model 'gpt-4' refuses this gateway's token (401)"),
    errors.UpstreamRedirected(
        "the server of model 'gpt-4' answers with a redirect (307): its host must be its "
        "final address"
    ),
    errors.UpstreamInvalidReply(
        "the server of model 'gpt-4' sent what cannot be passed on: its reply has the status 666"
    ),
    errors.UpstreamUnreachable("The model's server does not answer."),
    errors.WorkerLost("The worker died in the middle of the reply, which cannot be continued."),
    errors.ReplyLogTruncated("The beginning of the reply is no longer kept."),
    errors.ReplyTooLarge(
        "A part of 70000000 bytes of the model's reply is larger than the log takes."
    ),
    errors.BusUnavailable(
        "The request could not be stored; it was not accepted.", retry_after_seconds=3
    ),
    errors.LimitsUnavailable("The limits of this key cannot be looked up.", retry_after_seconds=1),
    errors.ConnectionsFull(
        "This gateway has as many connections as it takes; try again shortly.",
        retry_after_seconds=1,
    ),
    errors.Draining(
        "This gateway is being stopped and takes no more requests.", retry_after_seconds=1
    ),
    errors.GatewayDraining("This gateway is being stopped; the request goes on under its id."),
    errors.DeadlineExceeded("The reply was not ready within 540 seconds."),
)

COMMON_ERRORS: ErrorTypes = (errors.MethodNotAllowed, errors.InternalError)
KEY_ERRORS: ErrorTypes = (errors.InvalidApiKey, errors.AnonymousRefused, errors.InternalError)
MODEL_ERRORS: ErrorTypes = (errors.ModelNotFound, errors.ModelNotAllowed, *KEY_ERRORS)
REQUEST_ID_ERRORS: ErrorTypes = (
    errors.RequestNotFound,
    errors.BadRequest,
    errors.BusUnavailable,
    errors.MethodNotAllowed,
    *KEY_ERRORS,
)
NON_INFERENCE_ERRORS: ErrorTypes = (
    errors.UnknownUrl,
    errors.RequestNotFound,
    errors.MethodNotAllowed,
)
INFERENCE_ERRORS: ErrorTypes = tuple(
    type(sample) for sample in SAMPLE_ERRORS if not isinstance(sample, NON_INFERENCE_ERRORS)
)
# not every model has it
OPTIONAL_ENDPOINT_ERRORS: ErrorTypes = (errors.UnknownUrl, *INFERENCE_ERRORS)

HEADERS: dict[str, dict[str, Any]] = {
    "x-request-id": {
        "description": "The request's id: `req_...` if it was accepted, and GET "
        "/v1/requests/{id} finds it;"
        " `err_...` if it was not, and only the gateway's log has it.",
        "schema": {"type": "string"},
    },
    "server-timing": {
        "description": "How long the request waited and how long the upstream took, in "
        "milliseconds.",
        "schema": {"type": "string"},
        "example": "queue;dur=1.2, upstream;dur=840.0",
    },
    "www-authenticate": {
        "description": "How to send a key.",
        "schema": {"type": "string"},
        "example": "Bearer",
    },
    "retry-after": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer"},
    },
    "x-should-retry": {
        "description": "Whether to try again; the openai SDK obeys it.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}


def header_refs(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def error_responses(error_types: ErrorTypes) -> dict[str, Any]:
    """The response objects of these errors, by status."""
    samples = sorted(
        (sample for sample in SAMPLE_ERRORS if type(sample) in error_types),
        key=lambda sample: sample.status,
    )
    return {
        str(status): _response(status, list(group))
        for status, group in groupby(samples, key=lambda s: s.status)
    }


def _response(status: int, samples: list[GatewayError]) -> dict[str, Any]:
    examples = {
        sample.code or sample.type: {
            "summary": sample.message,
            "value": orjson.loads(sample.encode_body()),
        }
        for sample in samples
    }
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(examples)}.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ErrorReply"},
                "examples": examples,
            }
        },
        "headers": header_refs(*_header_names(samples)),
    }


def _header_names(samples: list[GatewayError]) -> Iterable[str]:
    yield "x-request-id"
    if any(isinstance(sample, errors.InvalidApiKey) for sample in samples):
        yield "www-authenticate"
    if any(sample.retry_after_seconds is not None for sample in samples):
        yield "retry-after"
    if any(sample.should_retry is not None for sample in samples):
        yield "x-should-retry"
