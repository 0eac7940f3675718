"""The contract of an engine, over the echo model and over HTTP. An upstream's own habits:
test_http_engine*.py.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import orjson
import pytest

from app.agent.engines import ENGINES, make_engine
from app.agent.engines.base import Engine, EngineBroken
from app.agent.engines.echo import EchoEngine
from app.config.model_entry import ECHO, ModelEntry
from app.openai_api.sse import DONE_EVENT, extract_event_data, split_events
from tests.contract.engines import collect, echo_over_http, http_engine, job, worker_settings
from tests.contract.scripted_upstream import ScriptedUpstream


@pytest.fixture(params=sorted(ENGINES))
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "echo":
        yield EchoEngine(ECHO, worker_settings(), pause=0)
    else:
        async with (
            ScriptedUpstream(echo_over_http) as upstream,
            http_engine(upstream.host) as engine,
        ):
            yield engine


def contents(stream: bytes) -> str:
    events = [
        orjson.loads(extract_event_data(event))
        for event in split_events(stream)
        if event != DONE_EVENT
    ]
    return "".join(
        choice["delta"].get("content", "") for event in events for choice in event["choices"]
    )


def whole_content(body: bytes) -> Any:
    return orjson.loads(body)["choices"][0]["message"]["content"]


async def test_a_started_engine_is_ready(engine: Engine) -> None:
    assert await engine.check() == ""


async def test_a_request_is_answered_whole(engine: Engine) -> None:
    answer = await engine.call(job())
    body = orjson.loads(await answer.read())
    assert (answer.status, answer.is_stream, dict(answer.headers)) == (
        200,
        False,
        {"content-type": "application/json"},
    )
    assert "one two three" in body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens"] == 3


async def test_a_request_is_answered_as_a_stream_that_says_the_same(engine: Engine) -> None:
    answer = await engine.call(job(stream=True))
    stream = await collect(answer)
    assert (answer.status, answer.is_stream) == (200, True)
    assert dict(answer.headers)["content-type"].startswith("text/event-stream")
    assert stream.endswith(DONE_EVENT)
    assert contents(stream) == whole_content(await (await engine.call(job())).read())


async def test_a_stream_can_be_read_whole(engine: Engine) -> None:
    answer = await engine.call(job(stream=True))
    assert (await answer.read()).endswith(DONE_EVENT)


async def test_a_path_that_the_upstream_has_not_is_its_own_404(engine: Engine) -> None:
    answer = await engine.call(job("/embeddings"))
    assert answer.status == 404
    assert "/embeddings" in orjson.loads(await answer.read())["error"]["message"]


async def test_a_request_that_the_upstream_refuses_is_its_own_400(engine: Engine) -> None:
    answer = await engine.call(
        job(body=b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":0}')
    )
    assert answer.status == 400
    assert orjson.loads(await answer.read())["error"]["param"] == "max_tokens"


async def test_many_requests_at_once_each_get_their_own_answer(engine: Engine) -> None:
    async def said(word: str) -> bool:
        body = orjson.dumps(
            {"model": "m", "messages": [{"role": "user", "content": word}], "stream": True}
        )
        answer = await engine.call(job(stream=True, body=body))
        return f"You said: {word}\n" in contents(await collect(answer))

    assert all(await asyncio.gather(*(said(f"word{number}") for number in range(40))))


async def test_an_answer_closed_in_its_middle_ends_and_the_engine_goes_on(engine: Engine) -> None:
    answer = await engine.call(job(stream=True))
    pieces: list[bytes] = []

    async def closes(piece: bytes) -> None:
        pieces.append(piece)
        await answer.close()

    with pytest.raises(EngineBroken):
        await answer.relay(closes)
    assert len(pieces) == 1
    with pytest.raises(EngineBroken):
        await collect(answer)
    assert (await (await engine.call(job())).read()).startswith(b"{")


async def test_nothing_is_read_while_what_was_taken_is_not_done_with(engine: Engine) -> None:
    held, pieces = asyncio.Event(), list[bytes]()

    def take(piece: bytes) -> Awaitable[None] | None:
        pieces.append(piece)
        return held.wait() if len(pieces) == 1 else None  # type: ignore[return-value]

    answer = await engine.call(job(stream=True))
    relaying = asyncio.create_task(answer.relay(take))
    whole = await (await engine.call(job(stream=True))).read()  # that long
    assert len(pieces) == 1
    held.set()
    await relaying
    assert contents(b"".join(pieces)) == contents(whole)


async def test_what_goes_wrong_in_taking_is_the_relays_to_raise(engine: Engine) -> None:
    class Mine(Exception):
        pass

    async def later(_piece: bytes) -> None:
        raise Mine

    def at_once(_piece: bytes) -> None:
        raise Mine

    for take in (at_once, later):
        with pytest.raises(Mine):
            await (await engine.call(job(stream=True))).relay(take)
    assert (await (await engine.call(job())).read()).startswith(b"{")


async def test_an_answer_may_be_closed_at_any_time_and_twice(engine: Engine) -> None:
    unread, read = await engine.call(job()), await engine.call(job())
    await read.read()
    for answer in (unread, read, read):
        await answer.close()
    assert (await engine.call(job())).status == 200


@pytest.mark.parametrize("name", sorted(ENGINES))
@pytest.mark.parametrize("says", [True, False])
async def test_the_models_entry_chooses_the_engine_and_whether_it_may_continue_a_text(
    name: str, says: bool
) -> None:
    entry = ModelEntry.model_validate(
        {"id": "m", "engine": name, "host": "http://127.0.0.1", "continues": says}
    )
    engine = make_engine(entry, worker_settings())
    assert type(engine).__name__ == f"{name.capitalize()}Engine"
    assert await engine.continues() is says
