"""Our own errors in the shape of Anthropic's API, as its SDK reads them."""

import anthropic
import httpx2
import orjson
import pytest

from app.gateway.openapi.failures import SAMPLE_ERRORS
from app.openai_api.anthropic import encode_error_body
from app.openai_api.endpoints import find_endpoint

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


@pytest.mark.parametrize("error", SAMPLE_ERRORS, ids=lambda error: type(error).__name__)
def test_the_sdk_finds_type_message_and_code_of_each_error(error):
    request = httpx2.Request("POST", "http://gateway/v1/messages")
    response = httpx2.Response(error.status, content=encode_error_body(error), request=request)
    client = anthropic.Anthropic(api_key="k")
    raised = client._make_status_error_from_response(response)
    assert raised.type == KINDS[error.status]
    assert (raised.api_message, raised.error_code) == (error.message, error.code)


def test_an_endpoint_has_the_bodies_of_its_api():
    (error, *_) = SAMPLE_ERRORS
    assert find_endpoint("/messages?beta=true").encode_error_body(error) == encode_error_body(error)
    assert find_endpoint("/chat/completions").encode_error_body(error) == error.encode_body()
    event = find_endpoint("/messages").encode_error_event(encode_error_body(error))
    assert event == b"event: error\ndata: " + encode_error_body(error) + b"\n\n"
    assert orjson.loads(encode_error_body(error))["type"] == "error"
