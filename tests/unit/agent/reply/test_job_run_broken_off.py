"""One request whose upstream breaks off or is not there: what the log then has for its reader."""

from typing import Any

import orjson
import pytest

from app.agent.engines.base import EngineUnreachable
from app.errors import BusError
from app.openai_api.sse import DONE_EVENT
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import COMPLETED, DATA, FAILED
from tests.numbered import tokens
from tests.unit.agent.counted import counted
from tests.unit.agent.scripted_engine import BROKEN, JSON, ScriptedAnswer, stream
from tests.unit.agent.shop import PLAIN, asked, error_of, shop
from tests.unit.scene import (
    LOST,
    body,
    chunks,
    send_reply,
    text_of,
    until,
)


@pytest.mark.parametrize("query", ["", "?api-version=1"])
@pytest.mark.parametrize("end", [[BROKEN], []])
async def test_a_stream_that_breaks_off_is_continued_as_one(end, query):
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], *end]))
    seen = await at.run(
        asked(path=f"/chat/completions{query}", body=body(stream=True, max_tokens=6))
    )
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(6))
    assert seen.text.endswith(DONE_EVENT)
    assert {chunk["id"] for chunk in chunks(seen.text)} == {"chatcmpl-1"}
    assert seen.text.count(b'"role"') == 1
    first, second = at.engine.bodies()
    assert (first["max_tokens"], second["max_tokens"], second["messages"][-1]["content"]) == (
        6,
        4,
        tokens(2),
    )
    assert [answer.closed for answer in at.engine.given] == [True, True]


async def test_it_is_continued_too_where_the_log_cannot_be_read_at_once(monkeypatch):
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], BROKEN]))
    read, refusals = at.bus.log_reader, ["away"] * 3

    async def reader(*arguments: Any) -> Any:
        if refusals:
            raise BusError(refusals.pop())
        return await read(*arguments)

    monkeypatch.setattr(at.bus, "log_reader", reader)
    seen = await at.run(asked(body=body(stream=True, max_tokens=6)))
    assert (seen.state.outcome, text_of(seen.text), refusals) == (COMPLETED, tokens(6), [])


async def test_broken_off_behind_its_end_a_stream_is_whole():
    pieces = stream(PLAIN)
    at = await shop(ScriptedAnswer([*pieces, BROKEN]))
    seen = await at.run(asked())
    assert (seen.text, seen.state.outcome, len(at.engine.jobs)) == (b"".join(pieces), COMPLETED, 1)


async def test_it_may_break_off_as_often_as_there_are_retries():
    def half(first: int) -> ScriptedAnswer:
        begun = {
            **PLAIN,
            "continue_final_message": True,
            "messages": [{"role": "assistant", "content": tokens(first)}],
        }
        return ScriptedAnswer([*stream(begun if first else PLAIN)[:2], BROKEN])

    at = await shop(half(0), half(1), half(2))
    seen = await at.run(asked())
    assert (text_of(seen.text), error_of(seen.text)["code"]) == (tokens(3), "worker_lost")
    at = await shop(half(0), half(1))
    seen = await at.run(asked(body=body(stream=True, max_tokens=4)))
    assert (text_of(seen.text), seen.state.outcome) == (tokens(4), COMPLETED)


@pytest.mark.parametrize("members", [{"tools": [{"type": "function"}]}, {"n": 2}])
async def test_a_stream_that_cannot_be_continued_ends_with_a_retryable_error(members):
    begun = stream(PLAIN)[:3]
    at = await shop(ScriptedAnswer([*begun, BROKEN]))
    seen = await at.run(asked(body=body(stream=True, **members)))
    assert seen.text.startswith(b"".join(begun))
    assert (error_of(seen.text)["type"], error_of(seen.text)["code"]) == (
        "server_error",
        "worker_lost",
    )
    assert DONE_EVENT not in seen.text
    assert (seen.state.outcome, seen.parts[-1].code, len(at.engine.jobs)) == (
        FAILED,
        "worker_lost",
        1,
    )


async def test_broken_off_before_any_text_it_is_begun_anew_even_where_nothing_can_be_continued():
    at = await shop(ScriptedAnswer([stream(PLAIN)[0], BROKEN]), continues=False)
    seen = await at.run(asked())
    assert (seen.state.outcome, text_of(seen.text), seen.text.count(b'"role"')) == (
        COMPLETED,
        tokens(5),
        1,
    )


async def test_a_whole_reply_that_breaks_off_is_begun_anew():
    at = await shop(ScriptedAnswer([b'{"half', BROKEN], headers=JSON))
    seen = await at.run(asked(stream=False))
    assert orjson.loads(seen.text)["choices"][0]["message"]["content"] == tokens(5)


async def test_an_upstream_that_will_not_go_on_ends_the_stream():
    refusal = ScriptedAnswer(
        [b'{"error":{"message":"no such parameter"}}'], status=400, headers=JSON
    )
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], BROKEN]), refusal)
    seen = await at.run(asked())
    assert (text_of(seen.text), error_of(seen.text)["code"]) == (tokens(2), "worker_lost")


@pytest.mark.parametrize("stream_", [True, False])
async def test_an_upstream_that_nobody_reaches_is_502(stream_):
    at = await shop(EngineUnreachable("nobody listens"))
    seen = await at.run(asked(stream=stream_))
    (part,) = seen.parts
    assert (part.outcome, part.status, part.code) == (FAILED, 502, "upstream_unreachable")
    assert "nobody listens" in orjson.loads(part.value)["error"]["message"]


async def test_an_upstream_that_is_gone_when_a_text_is_to_go_on_ends_the_stream_retryably():
    at = await shop(
        ScriptedAnswer([*stream(PLAIN)[:3], BROKEN]), EngineUnreachable("nobody listens")
    )
    seen = await at.run(asked())
    assert (text_of(seen.text), error_of(seen.text)["code"]) == (tokens(2), "worker_lost")


async def test_what_the_upstream_did_wrong_is_counted_by_its_kind():
    kinds = ("4xx", "5xx", "unreachable", "broken")
    before = [counted("upstream_errors", kind=kind) for kind in kinds]
    retries = counted("upstream_retries")
    broken = ScriptedAnswer([*stream(PLAIN)[:2], BROKEN])
    answers = [ScriptedAnswer([b"{}"], status=status, headers=JSON) for status in (404, 500)]
    for answer in (*answers, EngineUnreachable("nobody listens")):
        await (await shop(answer)).run(asked())
    await (await shop(broken)).run(asked(body=body(stream=True, max_tokens=4)))
    assert [counted("upstream_errors", kind=kind) for kind in kinds] == [
        number + 1 for number in before
    ]
    assert counted("upstream_retries") == retries + 1


async def test_going_on_for_a_dead_worker_the_numbers_go_on_too():
    at = await shop()
    req = asked(body=body(stream=True, max_tokens=5))
    begun = b"".join(piece for piece in stream(PLAIN)[:3] if isinstance(piece, bytes))
    for reply in (
        ReplyRecord(req.id, "dead", DATA, 0, begun),
        ReplyRecord(req.id, "worker-1", "claim", supersedes="dead"),
    ):
        await send_reply(at.bus, reply)
    seen = await at.run(req, await at.lookup.look(req))
    assert (text_of(seen.text), seen.state.outcome) == (tokens(5), COMPLETED)
    assert [(part.seq, part.event) for part in seen.parts[:2]] == [(0, 1), (1, 4)]


async def test_what_the_log_does_not_take_at_once_is_not_lost_by_a_break():
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], BROKEN]))
    at.bus.script.extend([LOST, LOST])
    seen = await at.run(asked(body=body(stream=True, max_tokens=5)))
    await until(lambda: not at.bus.script)
    assert text_of(seen.text) == tokens(5)
