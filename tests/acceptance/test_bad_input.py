"""Whatever bytes a client sends get their 4xx with OpenAI's error body, and the gateway serves
on.
"""

import pytest

from tests.acceptance.conftest import MOST
from tests.acceptance.raw import BODY, chunk, connected, exchange, in_chunks, request
from tests.acceptance.services import Gateway

NO_HTTP = "The request is not HTTP that this server understands."


def chat(members: bytes) -> bytes:
    return b'{"model":"echo","messages":[{"role":"user","content":"x"}],' + members + b"}"


BODIES: dict[str, tuple[bytes, str | None, str | None]] = {  # param and code
    "white space": (b" \n\t ", None, "invalid_json"),
    "a text": (b'"model"', None, "invalid_json"),
    "null": (b"null", None, "invalid_json"),
    "a number of 5000 digits": (chat(b'"n":' + b"9" * 5000), None, "invalid_json"),
    "not a number": (chat(b'"temperature":NaN'), None, "invalid_json"),
    "two documents": (BODY + BODY, None, "invalid_json"),
    "a comma too many": (chat(b'"n":1,'), None, "invalid_json"),
    "a bare control character": (chat(b'"user":"\x00"'), None, "invalid_json"),
    "no UTF-8 in a value": (chat(b'"user":"\xc3"'), None, "invalid_json"),
    "no UTF-8 in a name": (chat(b'"\xff":1'), None, "invalid_json"),
    "UTF-8 that is too long": (chat(b'"user":"\xc0\xaf"'), None, "invalid_json"),
    "UTF-8 of half a pair": (chat(b'"user":"\xed\xa0\x80"'), None, "invalid_json"),
    "half a pair, escaped": (chat(b'"user":"\\ud800"'), None, "invalid_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + BODY, None, "invalid_json"),
    "UTF-16": (BODY.decode().encode("utf-16"), None, "invalid_json"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", None, "invalid_json"),
    "deep arrays": (b"[" * 50_000, None, "invalid_json"),
    "deep arrays, closed": (chat(b'"user":' + b"[" * 5000 + b"]" * 5000), None, "invalid_json"),
    "deep objects": (b'{"a":' * 15_000, None, "invalid_json"),
    "an empty model": (b'{"model":""}', "model", None),
    "a list for the model": (b'{"model":["echo"]}', "model", None),
    "the model last as null": (BODY[:-1] + b',"model":null}', "model", None),
    "a number too large for the model": (b'{"model":%s}' % (b"9" * 30), "model", None),
    "an object for messages": (b'{"model":"echo","messages":{}}', "messages", None),
    "a text for a message": (
        b'{"model":"echo","messages":[{"role":"user"},"x"]}',
        "messages[1]",
        None,
    ),
    "a number for a role": (b'{"model":"echo","messages":[{"role":1}]}', "messages[0].role", None),
    "a number for stream": (chat(b'"stream":1'), "stream", None),
    "a list for stream_options": (chat(b'"stream_options":[]'), "stream_options", None),
    "a list for include_usage": (
        chat(b'"stream_options":{"include_usage":[]}'),
        "stream_options.include_usage",
        None,
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_wrong_is_400_and_names_the_place(echo: Gateway, name: str) -> None:
    body, param, code = BODIES[name]
    answer = await exchange(echo.port, request(body=body))
    assert answer.status == 400
    assert (answer.error["type"], answer.error["param"], answer.error["code"]) == (
        "invalid_request_error",
        param,
        code,
    )
    assert len(answer.body) < 1000


async def test_a_body_that_is_cut_off_anywhere_is_400(echo: Gateway) -> None:
    async with connected(echo.port) as connection:
        for end in range(len(BODY)):
            await connection.send(request(body=BODY[:end]))
            answer = await connection.answer()
            assert (answer.status, answer.error["code"]) == (400, "invalid_json")


async def test_a_model_s_name_as_large_as_the_body_is_answered_and_logged_in_short(
    echo: Gateway,
) -> None:
    answer = await exchange(
        echo.port, request(body=b'{"model":"%s","messages":[{"role":"user"}]}' % (b"m" * 90_000))
    )
    assert (answer.status, answer.error["param"], answer.error["code"]) == (
        404,
        "model",
        "model_not_found",
    )
    assert len(answer.body) < 1000
    assert max(map(len, echo.log.splitlines())) < 2000


ENDLESS = b"5\r\n" + b"x" * 5 + b"\r\n"
CHUNKED: dict[str, tuple[bytes, int]] = {
    "a size that is none": (in_chunks(b"zz\r\n"), 400),
    "a size that is none, after a chunk": (in_chunks(chunk(BODY[:9]), b"zz\r\n"), 400),
    "a size that is negative": (in_chunks(b"-5\r\nhello\r\n"), 400),
    "a size of more than 64 bits": (in_chunks(b"1" + b"0" * 16 + b"\r\n"), 400),
    "a chunk longer than its size": (in_chunks(b"3\r\nhello\r\n0\r\n\r\n"), 400),
    "a size without a line's end": (in_chunks(b"5hello\r\n0\r\n\r\n"), 400),
    "half a body, whole in chunks": (in_chunks(chunk(BODY[:20]), chunk(b"")), 400),
    "no body": (in_chunks(chunk(b"")), 400),
    "more than is taken": (in_chunks(*[chunk(b"x" * 50_000)] * 2, chunk(b"x")), 413),
    "a first chunk larger than is taken": (in_chunks(b"ffffff\r\n", b"x" * (MOST + 1)), 413),
    "a length beside it": (
        in_chunks(chunk(BODY), chunk(b"")).replace(b"transfer", b"content-length: 5\r\ntransfer"),
        400,
    ),
    "another coding": (in_chunks(chunk(BODY), chunk(b"")).replace(b"chunked", b"gzip"), 400),
}


@pytest.mark.parametrize("name", CHUNKED)
async def test_a_fault_in_the_middle_of_chunks_is_4xx(echo: Gateway, name: str) -> None:
    data, status = CHUNKED[name]
    answer = await exchange(echo.port, data)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"


async def test_a_body_in_the_smallest_chunks_is_taken(echo: Gateway) -> None:
    pieces = [chunk(BODY[place : place + 1]) for place in range(len(BODY))]
    assert (await exchange(echo.port, in_chunks(*pieces, chunk(b"")))).status == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(echo: Gateway) -> None:
    for begun in (
        request(length=1000),
        in_chunks(chunk(BODY[:9])),
        in_chunks(b"ff\r\nhel"),
        request()[:40],
        b"",
    ):
        async with connected(echo.port) as connection:
            await connection.send(begun)


async def test_more_than_the_length_says_is_no_part_of_the_body(echo: Gateway) -> None:
    async with connected(echo.port) as connection:
        await connection.send(request() + b"and more\r\n\r\n")
        assert (await connection.answer()).status in (200, 400)
        assert await connection.ended()


async def test_a_length_over_the_limit_is_refused_before_the_body_comes(echo: Gateway) -> None:
    for length in (MOST + 1, 10**18):
        answer = await exchange(echo.port, request(body=b"", length=length))
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert str(MOST) in answer.error["message"]


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_who_first_sends_a_large_body_whole_reads_its_refusal(
    echo: Gateway, connection: str
) -> None:
    answer = await exchange(echo.port, request(body=b"x" * 20_000_000, Connection=connection))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


NO_REQUESTS = {
    "a greeting": b"hello\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "another version": b"GET /healthz HTTP/3.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a method of one's own": request(method="FETCH"),
    "a method in small letters": request(method="post"),
    "an endless method": b"P" * 5000,
    "a negative length": request(length=-1),
    "a length beyond all numbers": request(length=10**30),
    "two lengths": request(Content_Length="5"),
    "a bare byte in the path": request(b"/v1/\xff"),
    "a bare byte in the query": request(b"/v1/embeddings?\xff=1"),
    "a control character in the path": request(b"/v1/\x01"),
    "a header with a NUL": request(A="\x00"),
    "a header with a control character": request(A="\x01"),
    "a header on two lines": request(A="b\r\n c"),
    "a header without a colon": request(A="b\r\nc"),
    "a header's name with a space": request(A="b\r\nc d: e"),
    "a header without a name": request(A="b\r\n: c"),
    "lines that end in a newline only": b"GET /healthz HTTP/1.1\nhost: gateway\n\n",
}


@pytest.mark.parametrize("name", NO_REQUESTS)
async def test_what_is_no_http_is_400_and_the_connection_s_end(echo: Gateway, name: str) -> None:
    async with connected(echo.port) as connection:
        await connection.send(NO_REQUESTS[name])
        answer = await connection.answer()
        assert (answer.status, answer.error["message"]) == (400, NO_HTTP)
        assert await connection.ended()


async def test_a_head_that_is_too_large_is_431(echo: Gateway) -> None:
    for head in (b"A: " + b"a" * 400_000, b"A: a\r\n" * 70_000, b"A" * 400_000):
        async with connected(echo.port) as connection:
            await connection.send(b"GET /healthz HTTP/1.1\r\n" + head)
            answer = await connection.answer()
            assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


async def test_a_large_head_is_taken(echo: Gateway) -> None:
    assert (await exchange(echo.port, request(A="a" * 60_000))).status == 200
