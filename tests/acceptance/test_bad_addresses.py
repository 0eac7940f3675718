"""Methods, paths and header values that nobody should send: each is refused by name, or does no
harm.
"""

import pytest

from tests.acceptance.conftest import MOST
from tests.acceptance.raw import BODY, exchange, request
from tests.acceptance.services import Gateway

STREAMED = BODY[:-1] + b',"stream":true}'
NO_ID = "req_" + "A" * 48

NO_PATHS = {
    "dot segments": "/v1/../metrics",
    "dot segments, encoded": "/v1/%2e%2e/metrics",
    "a slash, encoded": "/v1/..%2fmetrics",
    "dot segments below the other base": "/api/v1/../v1/chat/completions",
    "a dot segment": "/v1/./chat/completions",
    "a backslash": "/v1/..\\metrics",
    "a backslash, encoded": "/v1/%5c..%5cmetrics",
    "a NUL": "/v1/%00",
    "a line's end": "/v1/a%0d%0aX-Injected:%201",
    "a question mark, encoded": "/v1/embeddings%3fa=b",
    "a fragment, encoded": "/v1/embeddings%23a",
    "text that runs backwards": "/v1/%e2%80%ae",
    "two slashes before all": "//v1/chat/completions",
    "what needs no key, and more": "/docs/../v1/chat/completions",
    "two slashes": "//",
}


@pytest.mark.parametrize("name", NO_PATHS)
async def test_a_path_that_leads_out_of_the_api_is_404(echo: Gateway, name: str) -> None:
    answer = await exchange(echo.port, request(NO_PATHS[name]))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


async def test_a_path_that_is_no_utf_8_is_answered_all_the_same(echo: Gateway) -> None:
    for path in ("/v1/%ff", "/v1/%ed%a0%80", "/v1/%c0%af"):
        assert (await exchange(echo.port, request(path))).status == 404
        assert (await exchange(echo.port, request(path, b"", method="GET"))).status == 404


async def test_no_path_makes_a_line_of_its_own_in_the_log(echo: Gateway) -> None:
    await exchange(echo.port, request("/v1/%0a99:99:99%20INFO%20app.access:%20forged"))
    await exchange(echo.port, request("/v1/%e2%80%a8forged%1b%5b31m"))
    assert not [line for line in echo.log.splitlines() if line.startswith(("99:99", "forged"))]
    assert "\x1b" not in echo.log


@pytest.mark.parametrize(
    "method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]
)
async def test_another_method_on_an_inference_endpoint_is_404_and_the_message_names_post(
    echo: Gateway, method: str
) -> None:
    answer = await exchange(echo.port, request(method=method))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert "Only POST" in answer.error["message"]


NOT_YET = {
    "GET": [
        "/v1",
        "/v1/",
        "/v1/models/",
        "/api/v1",
        "/docs/",
        "/v1/realtime",
        "/v1/responses",
        "/v1/chat/completions/",
    ],
    "DELETE": ["/v1/models/echo", "/v1/models", "/v1/chat/completions"],
    "POST": [
        "/v1",
        "/v1/",
        "/v1/models",
        "/v1/realtime/client_secrets",
        "/v1/chat/completions/",
        "/v1/completions/",
    ],
    "PUT": ["/v1/models/echo"],
}


@pytest.mark.parametrize("method", NOT_YET)
async def test_what_does_not_exist_is_one_404_and_nothing_redirects(
    echo: Gateway, method: str
) -> None:
    for path in NOT_YET[method]:
        answer = await exchange(echo.port, request(path, method=method))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url"), path
        assert "location" not in answer.headers


KEPT = {
    "GET": [
        "files",
        "batches",
        "responses/resp_1",
        "chat/completions/chatcmpl-1",
        "threads/t/messages",
        "videos/v/content",
    ],
    "DELETE": ["files/file-1", "responses/resp_1", "conversations/conv_1"],
    "POST": [
        "files",
        "uploads/u/parts",
        "batches",
        "messages/batches",
        "responses/resp_1/cancel",
        "vector_stores",
        "assistants",
    ],
}


@pytest.mark.parametrize("method", KEPT)
async def test_what_would_have_to_be_kept_is_said_not_to_be_here(
    echo: Gateway, method: str
) -> None:
    for path in KEPT[method]:
        for body in (b"", b'{"model":"echo"}'):
            answer = await exchange(echo.port, request(f"/v1/{path}", body, method=method))
            assert (answer.status, answer.error["code"]) == (404, "unknown_url"), path
            assert f"{method} /v1/{path}. This gateway keeps no files" in answer.error["message"]
            assert "allow" not in answer.headers


async def test_a_large_file_is_not_read_to_be_refused(echo: Gateway) -> None:
    answer = await exchange(echo.port, request("/v1/files", b"x" * 2 * MOST, method="POST"))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/requests/x/foo", "/api/v1/requests/x/foo"])
async def test_a_path_beside_those_of_a_request_goes_to_no_model(echo: Gateway, path: str) -> None:
    for method in ("POST", "GET", "DELETE"):
        answer = await exchange(echo.port, request(path, method=method))
        assert (answer.status, answer.error["code"]) == (404, "unknown_url"), method


@pytest.mark.parametrize(
    ("below", "method"),
    [("", "post"), ("/result", "post"), ("/stream", "delete"), ("/cancel", "get")],
)
async def test_a_request_by_another_method_is_405(echo: Gateway, below: str, method: str) -> None:
    answer = await exchange(echo.port, request(f"/v1/requests/x{below}", method=method.upper()))
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] in ({"/cancel": ["post"]}.get(below, ["get, head", "head, get"]))


NO_MODELS = [
    "..",
    "%2e%2e/%2e%2e",
    "%00",
    "%0d%0a",
    "%ff",
    "a" * 5000,
    "echo/",
    "echo%20",
    "ECHO",
    "%7B%7D",
]


@pytest.mark.parametrize("name", NO_MODELS, ids=range(len(NO_MODELS)))
async def test_a_model_by_a_wrong_name_is_404(echo: Gateway, name: str) -> None:
    answer = await exchange(echo.port, request(f"/v1/models/{name}", b"", method="GET"))
    assert (answer.status, answer.error["param"], answer.error["code"]) == (
        404,
        "model",
        "model_not_found",
    )
    assert len(answer.body) < 1000


NO_IDS = [
    "x",
    "req_",
    NO_ID,
    "req_" + "_" * 48,
    "req_" + "A" * 47 + "=",
    "req_" + "A" * 5000,
    "%00",
    "%ff",
    "..%00",
    "%e2%82%ac",
]


@pytest.mark.parametrize("below", ["", "/result", "/stream", "/cancel"])
async def test_a_request_by_a_wrong_id_is_404(echo: Gateway, below: str) -> None:
    method = "POST" if below == "/cancel" else "GET"
    for id_ in NO_IDS:
        answer = await exchange(
            echo.port, request(f"/v1/requests/{id_}{below}", b"", method=method)
        )
        assert (answer.status, answer.error["param"], answer.error["code"]) == (
            404,
            "id",
            "request_not_found",
        ), id_


NO_NUMBERS = ["-1", "+1", "1.5", "1e3", "0x1", " ", "x", "\xb2", "9" * 19, "9" * 5000]


async def test_a_place_in_a_stream_that_is_no_number_is_400(echo: Gateway) -> None:
    for text in NO_NUMBERS:
        encoded = text.replace("+", "%2b").replace("\xb2", "%c2%b2").replace(" ", "%20")
        stream = f"/v1/requests/{NO_ID}/stream"
        asked = await exchange(
            echo.port, request(f"{stream}?starting_after={encoded}", b"", method="GET")
        )
        assert (asked.status, asked.error["param"]) == (400, "starting_after"), text
        if text.strip():
            resumed = await exchange(
                echo.port, request(stream, b"", method="GET", Last_Event_ID=text)
            )
            begun = await exchange(echo.port, request(body=STREAMED, Last_Event_ID=text))
            assert [(answer.status, answer.error["param"]) for answer in (resumed, begun)] == [
                (400, "Last-Event-ID")
            ] * 2, text


NO_TIMEOUTS = [
    "0",
    "-1",
    "-0.0",
    "nan",
    "-inf",
    "1e-400",
    "1,5",
    "1s",
    "0x10",
    "\xb2",
    "9" * 50 + "x",
]


@pytest.mark.parametrize("text", NO_TIMEOUTS)
async def test_a_timeout_that_is_no_number_of_seconds_is_400(echo: Gateway, text: str) -> None:
    answer = await exchange(echo.port, request(X_Request_Timeout=text))
    assert (answer.status, answer.error["param"]) == (400, "X-Request-Timeout")


HARMLESS = {
    "a timeout without end": {"X_Request_Timeout": "inf"},
    "a timeout beyond all numbers": {"X_Request_Timeout": "9" * 400},
    "preferences of others": {"Prefer": 'wait=10, return=minimal;a="b,c", ,,=;\xff'},
    "no preference": {"Prefer": ""},
    "hops of others": {"X_LLM_Gateway_Hops": ",,a\xff,"},
    "a traceparent that is none": {"traceparent": "\xe9" * 500},
    "a proxy's id of one's own": {"X_Proxy_Request_Id": "\xff" * 500},
    "a request id of one's own": {"X_Request_Id": "a\tb\xff" * 500},
    "an Idempotency-Key of any bytes": {"Idempotency_Key": "\xff\t " + "k" * 5000},
    "an address of one's own": {
        "X_Forwarded_For": "no address",
        "Forwarded": "for=;;",
        "X_Real_IP": "::::",
    },
    "a wish for HTTP/2": {"Upgrade": "h2c", "HTTP2_Settings": "AAMAAABk"},
    "a type that is none": {"Content_Type": "\xff/;;charset=x"},
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_a_header_with_an_odd_value_does_no_harm(echo: Gateway, name: str) -> None:
    assert (await exchange(echo.port, request(**HARMLESS[name]))).status == 200
