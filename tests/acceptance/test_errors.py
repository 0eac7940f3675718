"""Every error is OpenAI's: its status, its body, and the exception that the SDK raises for it."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.config.settings import load_settings
from app.gateway.access.authentication import Authenticator
from app.gateway.accounting.access_log import AccessLog
from app.gateway.http.asgi import Receive, Scope, Send
from app.gateway.middleware import RequestMiddleware
from tests.acceptance.asking import CHAT, HELLO, chat, error_of
from tests.acceptance.conftest import Site
from tests.acceptance.processes import until

Ask = Callable[[AsyncOpenAI], Awaitable[Any]]
LARGE = "x" * 1_000_001  # the site takes 1,000,000 bytes


def ask(**fields: Any) -> Ask:
    return lambda sdk: sdk.chat.completions.create(**{"model": "sim", "messages": HELLO, **fields})


A_FORM = {
    "body": {"model": "sim"},
    "files": {"file": b"RIFF"},
    "options": {"headers": {"Content-Type": "multipart/form-data"}},
}

REFUSALS: dict[str, tuple[Ask, type[openai.APIStatusError], int, str | None]] = {
    "no messages": (ask(messages=[]), openai.BadRequestError, 400, None),
    "an unknown model": (ask(model="nobody"), openai.NotFoundError, 404, "model_not_found"),
    "an unknown path": (
        lambda sdk: sdk.get(str(sdk.base_url.join("/nothing")), cast_to=object),
        openai.NotFoundError,
        404,
        "unknown_url",
    ),
    "an unknown model asked for": (
        lambda sdk: sdk.models.retrieve("a/b"),
        openai.NotFoundError,
        404,
        "model_not_found",
    ),
    "a wrong method": (
        lambda sdk: sdk.get("/chat/completions", cast_to=object),
        openai.NotFoundError,
        404,
        "unknown_url",
    ),
    "a large body": (ask(user=LARGE), openai.APIStatusError, 413, "body_too_large"),
    "a form": (
        lambda sdk: sdk.post("/chat/completions", cast_to=object, **A_FORM),
        openai.APIStatusError,
        415,
        "unsupported_media_type",
    ),
    "no reply in time": (
        ask(extra_headers={"X-Request-Timeout": "0.3"}, extra_body={"x_ttft": 30}),
        openai.InternalServerError,
        504,
        "deadline_exceeded",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_the_sdk_raises_its_exception_for_each_refusal(sdk: AsyncOpenAI, name: str) -> None:
    asked, kind, status, code = REFUSALS[name]
    with pytest.raises(openai.APIStatusError) as refused:
        await asked(sdk)
    assert type(refused.value) is kind
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert error_of(refused.value.response)["message"]
    assert (refused.value.request_id or "").startswith("req_" if status == 504 else "err_")


MALFORMED: dict[str, tuple[str, bytes, str | None, str | None]] = {
    "nothing": (CHAT, b"", None, "invalid_json"),
    "half a body": (CHAT, b'{"model":"sim"', None, "invalid_json"),
    "no UTF-8": (CHAT, b'{"model":"\xff"}', None, "invalid_json"),
    "an array": (CHAT, b"[]", None, "invalid_json"),
    "no model": (CHAT, b'{"messages":[{"role":"user","content":"x"}]}', "model", None),
    "a model that is a number": (
        CHAT,
        b'{"model":1,"messages":[{"role":"user","content":"x"}]}',
        "model",
        None,
    ),
    "no messages": (CHAT, b'{"model":"sim"}', "messages", None),
    "a message without a role": (
        CHAT,
        b'{"model":"sim","messages":[{"content":"x"}]}',
        "messages[0].role",
        None,
    ),
    "a text for stream": (
        CHAT,
        b'{"model":"sim","messages":[{"role":"user"}],"stream":"yes"}',
        "stream",
        None,
    ),
    "no prompt": ("/v1/completions", b'{"model":"sim"}', "prompt", None),
    "no input": ("/v1/embeddings", b'{"model":"sim"}', "input", None),
    "no model on a path that we do not know": ("/v1/rerank", b'{"query":"x"}', "model", None),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_body_is_400_and_says_where(http: httpx2.AsyncClient, name: str) -> None:
    path, body, param, code = MALFORMED[name]
    response = await http.post(path, content=body)
    error = error_of(response)
    assert response.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_a_model_that_nobody_knows_is_not_queued(
    site: Site, http: httpx2.AsyncClient
) -> None:
    before = (await site.upstream.stats()).started
    response = await http.post(CHAT, json=chat("nobody"))
    assert error_of(response)["param"] == "model"
    nowhere = await http.get(f"/v1/requests/{response.headers['x-request-id']}")
    assert (nowhere.status_code, error_of(nowhere)["code"]) == (404, "request_not_found")
    await http.post(CHAT, json=chat())
    assert (await site.upstream.stats()).started == before + 1


async def test_a_large_body_is_refused_by_its_limit_s_name(http: httpx2.AsyncClient) -> None:
    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 100_000

    whole = await http.post(CHAT, content=b"x" * 1_000_001)
    in_chunks = await http.post(CHAT, content=pieces())
    assert whole.status_code == in_chunks.status_code == 413
    assert "1000000 bytes (MAX_BODY_BYTES)" in error_of(whole)["message"]
    assert error_of(in_chunks) == error_of(whole)


async def test_a_body_of_just_the_limit_is_taken(http: httpx2.AsyncClient) -> None:
    body = b'{"model":"sim","messages":[{"role":"user","content":"x"}],"max_tokens":1,"user":"%s"}'
    fill = b"x" * (1_000_000 - len(body) + 2)
    assert (await http.post(CHAT, content=body % fill)).status_code == 200


async def test_405_names_what_is_allowed(http: httpx2.AsyncClient) -> None:
    response = await http.put("/v1/requests/x")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


async def test_the_deadline_ends_the_generation_and_the_sdk_s_retries(
    site: Site, http: httpx2.AsyncClient
) -> None:
    before = await site.upstream.idle()
    # a slow machine needs more than the first until a generation runs
    for seconds in ("0.5", "2", "8"):
        response = await http.post(
            CHAT, json=chat(x_ttft=60), headers={"x-request-timeout": seconds}
        )
        assert (response.status_code, response.headers["x-should-retry"]) == (504, "false")
        assert response.headers["x-request-id"].startswith("req_")
        if (await site.upstream.stats()).started > before.started:
            break

    async def is_ended() -> bool:
        now = await site.upstream.stats()
        return now.active == 0 and now.aborted > before.aborted

    await until(is_ended, "the generation to be ended")


@pytest.mark.parametrize("wanted", ["0", "-1", "nan", "soon"])
async def test_a_timeout_that_is_none_is_refused(http: httpx2.AsyncClient, wanted: str) -> None:
    response = await http.post(CHAT, json=chat(), headers={"x-request-timeout": wanted})
    assert (response.status_code, error_of(response)["param"]) == (400, "X-Request-Timeout")


UPSTREAMS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    418: openai.APIStatusError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}
HEADERS = {
    "retry-after": "77",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", UPSTREAMS)
async def test_an_upstream_s_own_error_arrives_as_it_is(
    sdk: AsyncOpenAI, status: int, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(stream=stream, extra_body={"x_status": status, "x_headers": HEADERS})(sdk)
    assert type(refused.value) is UPSTREAMS[status]
    assert error_of(refused.value.response) == {
        "message": f"scripted {status}",
        "type": "upstream_error",
        "param": None,
        "code": "scripted",
    }
    assert {name: refused.value.response.headers[name] for name in HEADERS} == HEADERS


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 403])
async def test_an_upstream_s_refusal_of_its_token_is_not_the_client_s(
    sdk: AsyncOpenAI, status: int, stream: bool
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        await ask(stream=stream, extra_body={"x_status": status})(sdk)
    assert (refused.value.status_code, error_of(refused.value.response)["code"]) == (
        502,
        "upstream_auth_failed",
    )


async def test_an_upstream_that_fails_for_a_moment_is_asked_again(
    site: Site, http: httpx2.AsyncClient
) -> None:
    response = await http.post(CHAT, json=chat(x_status=503, x_times=2))
    assert response.status_code == 200
    stats = await site.upstream.stats()
    assert stats.tries[stats.requests[-1].headers["x-request-id"]] == 3


async def test_a_fault_of_our_own_is_500_and_says_nothing_of_its_inside() -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    transport = httpx2.ASGITransport(
        RequestMiddleware(faulty, Authenticator(load_settings({}).gateway), AccessLog())
    )  # type: ignore[arg-type]
    async with AsyncOpenAI(
        api_key="unused",
        base_url="http://localhost/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
    ) as sdk:
        with pytest.raises(openai.InternalServerError) as failed:
            await ask()(sdk)
    assert (failed.value.status_code, failed.value.code) == (500, "internal_error")
    assert "secret" not in failed.value.response.text
