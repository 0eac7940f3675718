"""Our own errors in the shape of Anthropic's API, as its SDK reads them."""

import anthropic
import httpx2
import orjson
import pytest

from app.gateway.openapi.failures import SAMPLES
from app.openai_api.anthropic import error_body
from app.openai_api.endpoints import endpoint_of

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_the_sdk_finds_type_message_and_code_of_each_error(error):
    request = httpx2.Request("POST", "http://gateway/v1/messages")
    response = httpx2.Response(error.status, content=error_body(error), request=request)
    client = anthropic.Anthropic(api_key="k")
    raised = client._make_status_error_from_response(response)
    assert raised.type == KINDS[error.status]
    assert (raised.api_message, raised.error_code) == (error.message, error.code)


def test_an_endpoint_has_the_bodies_of_its_api():
    (error, *_) = SAMPLES
    assert endpoint_of("/messages?beta=true").error_body(error) == error_body(error)
    assert endpoint_of("/chat/completions").error_body(error) == error.body()
    event = endpoint_of("/messages").error_event(error_body(error))
    assert event == b"event: error\ndata: " + error_body(error) + b"\n\n"
    assert orjson.loads(error_body(error))["type"] == "error"
