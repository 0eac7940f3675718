"""The usage of a stream whose client did not ask for it: the worker does, and nobody but the
accounts hears of it.
"""

import orjson
import pytest

from app.openai_api.bodies import COMPLETIONS
from app.openai_api.sse import count_events
from app.protocol.reply_view import ReplyView
from tests.numbered import tokens
from tests.unit.agent.scripted_engine import BROKEN, JSON, ScriptedAnswer, stream
from tests.unit.agent.shop import PLAIN, asked, shop
from tests.unit.scene import body, chunks, text_of

ASKED = {"include_usage": True}
USAGE = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
REFUSAL = ScriptedAnswer(
    [b'{"error":{"message":"unknown field stream_options"}}'], status=400, headers=JSON
)


def usage_of(seen: ReplyView) -> dict[str, int]:
    """What the accounts are told."""
    found: dict[str, int] = orjson.loads(dict(seen.parts[-1].notes).get("usage", "{}"))
    return found


@pytest.mark.parametrize("path", ["/chat/completions", COMPLETIONS])
async def test_the_worker_asks_and_the_client_gets_what_it_would_have_got(path: str) -> None:
    at = await shop()
    seen = await at.run(asked(path=path, body=body(path=path, stream=True)))
    (sent,) = at.engine.bodies()
    assert sent["stream_options"] == ASKED
    assert seen.text == b"".join(stream(sent | {"stream_options": None}, path=path))
    assert usage_of(seen)["completion_tokens"] == 5


async def test_events_keep_their_numbers() -> None:
    *events, last = stream({**PLAIN, "stream_options": ASKED})
    at = await shop(ScriptedAnswer([b"".join(events), last]))
    seen = await at.run(asked())
    numbers = [part.event for part in seen.parts]
    assert numbers[-1] == 1 + sum(count_events(part.value) for part in seen.parts[:-1])
    assert count_events(seen.text) == 5 + 3  # the role, the tokens, the finish, [DONE]


async def test_a_client_that_asks_gets_it() -> None:
    at = await shop()
    raw = body(stream=True, stream_options=ASKED)
    seen = await at.run(asked(body=raw))
    assert at.engine.jobs[0].body == raw
    assert chunks(seen.text)[-1]["usage"] == usage_of(seen) == USAGE


@pytest.mark.parametrize(
    ("entry", "request_"),
    [
        ({"ask_usage": False}, {}),
        ({}, {"stream": False, "body": body(stream=False)}),
        ({}, {"path": "/responses"}),
    ],
)
async def test_where_it_may_not_or_need_not_nothing_is_added(entry: dict, request_: dict) -> None:
    at = await shop(ScriptedAnswer(stream(PLAIN)), **entry)
    raw = asked(**request_)
    await at.run(raw)
    assert at.engine.jobs[0].body == raw.body


async def test_an_upstream_that_refuses_the_option_is_asked_without_it_from_then_on() -> None:
    at = await shop(REFUSAL)
    for _ in range(2):
        seen = await at.run(asked())
        assert (text_of(seen.text), usage_of(seen)) == (tokens(5), {})
    assert [sent.get("stream_options") for sent in at.engine.bodies()] == [ASKED, None, None]
    assert REFUSAL.closed


async def test_another_error_is_the_clients() -> None:
    error = b'{"error":{"message":"temperature is too high"}}'
    at = await shop(ScriptedAnswer([error], status=400, headers=JSON))
    seen = await at.run(asked())
    assert (seen.parts[0].status, seen.text) == (400, error)
    assert len(at.engine.jobs) == 1


async def test_a_stream_that_is_continued_counts_the_whole() -> None:
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:4], BROKEN]))
    seen = await at.run(asked(body=body(stream=True, max_tokens=5)))
    assert text_of(seen.text) == tokens(5)
    assert usage_of(seen)["completion_tokens"] == 5
    assert not [chunk for chunk in chunks(seen.text) if "usage" in chunk]
    assert [sent["stream_options"] for sent in at.engine.bodies()] == [ASKED, ASKED]
