"""Events keep their order and their bytes, whatever text is in them: live, in the log, and after a
takeover.
"""

import asyncio
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.agent.reply.continuation import Prefix
from app.agent.reply.event_relay import EventRelay
from app.agent.reply.plan import Finish, plan
from app.agent.reply.reply_batcher import ReplyBatcher
from app.agent.reply.reply_writer import ReplyWriter
from app.openai_api.sse import DONE_EVENT, count_events, encode_event
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import COMPLETED, DATA
from tests.unit.agent.scripted_engine import BROKEN, ScriptedAnswer
from tests.unit.agent.shop import Shop, asked, shop
from tests.unit.openai_api.test_endpoints import SENTINELS
from tests.unit.scene import TOPICS, body, replies, send_reply, started_bus, text_of, turns


def event(**members: Any) -> bytes:
    return encode_event(orjson.dumps(members))


def chat(finish: str | None = None, **delta: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def message(kind: str, text: str) -> bytes:
    return b"event: %b\n" % kind.encode() + event(
        type=kind, delta={"type": "text_delta", "text": text}
    )


CHAT_END = chat("stop") + DONE_EVENT
MESSAGES_END = b"event: message_stop\n" + event(type="message_stop")
RESPONSES_END = b"event: response.completed\n" + event(
    type="response.completed", response={"usage": {"input_tokens": 1}}
)


@pytest.mark.parametrize("text", SENTINELS)
async def test_text_that_looks_like_a_sentinel_keeps_its_place(text):
    called = {"index": 0, "function": {"arguments": text}}
    for path, end, middle in (
        ("/chat/completions", CHAT_END, [chat(content=text), chat(tool_calls=[called])]),
        ("/messages", MESSAGES_END, [message("content_block_delta", text)]),
        ("/responses", RESPONSES_END, [event(type="response.output_text.delta", delta=text)]),
    ):
        for sentinel in middle:
            pieces = [
                chat(content="before"),
                sentinel,
                chat(content="after"),
                chat(content="later"),
                end,
            ]
            at = await shop(ScriptedAnswer(pieces))
            seen = await at.run(asked(path=path))
            assert (seen.text, seen.state.outcome) == (b"".join(pieces), COMPLETED)
            assert len(at.engine.jobs) == 1


# A text that ends in space is not continued: a chat template trims it.
@pytest.mark.parametrize("text", [text.rstrip() for text in SENTINELS])
async def test_an_upstream_cut_right_behind_such_a_text_is_continued_from_all_of_it(text):
    at = await shop(
        ScriptedAnswer([chat(content="one "), chat(content=text), BROKEN]),
        ScriptedAnswer([chat(content=" two"), CHAT_END]),
    )
    seen = await at.run(asked(body=body(stream=True)))
    assert (text_of(seen.text), seen.state.outcome) == (f"one {text} two", COMPLETED)
    assert at.engine.bodies()[1]["messages"][-1]["content"] == f"one {text}"


async def test_what_follows_done_is_written_behind_it():
    pieces = [
        chat(content="a"),
        CHAT_END,
        b": cost 1\n\n",
        event(extra=1),
        DONE_EVENT,
        b": bye\n\n",
    ]
    seen = await (await shop(ScriptedAnswer(pieces))).run(asked())
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), COMPLETED)


TEXTS = st.sampled_from(SENTINELS) | st.text(max_size=12)
EVENTS = st.one_of(
    st.builds(lambda text: chat(content=text), TEXTS),
    st.builds(lambda text: chat(tool_calls=[{"index": 0, "function": {"arguments": text}}]), TEXTS),
    st.builds(lambda text: chat(reasoning_content=text), TEXTS),
    st.builds(lambda text: message("content_block_delta", text), TEXTS),
    st.builds(
        lambda text: b": " + text.encode().replace(b"\r", b"").replace(b"\n", b"") + b"\n\n", TEXTS
    ),
    st.builds(lambda text: event(choices=[], note=text), TEXTS),
    st.sampled_from(
        [
            chat(content="x").replace(b"\n", b"\r\n"),
            b"event: x\nid: 7\ndata: a\ndata: b\n\n",
            DONE_EVENT,
        ]
    ),
)
CUTS = st.lists(st.integers(0, 100_000), max_size=12)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(stream) + 1) for place in cuts), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(places) if end > begin]


async def relayed(pieces: list[bytes], *, strip: bool) -> tuple[list[ReplyRecord], bytes]:
    """The records of a stream, and what the final record gets."""
    bus = await started_bus()
    writer = ReplyWriter(ReplyBatcher(bus, TOPICS.replies, lambda: True), 0, "00" * 16, "a")
    relay = EventRelay(writer, None, None, strip=strip, most_event=1_000_000)
    for piece in pieces:
        relay.take(piece)
        await asyncio.sleep(0)
    last = relay.release()
    await writer.finish(COMPLETED, last)
    return list(await replies(bus)), last


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=10), CUTS, st.booleans())
@example([chat(content="data: [DONE]"), chat(content="after")], [], False)
@example([DONE_EVENT, chat(content="after"), DONE_EVENT], [14], True)
@example([chat("stop"), b": ping\n\n", DONE_EVENT], [], True)
def test_any_events_cut_anywhere_come_out_of_the_log_as_they_went_in(events, cuts, strip):
    stream = b"".join(events)
    records, _ = asyncio.run(relayed(cut(stream, cuts), strip=strip))
    assert b"".join(record.value for record in records) == stream
    data = [record for record in records if not record.outcome]
    assert all(
        record.event == 1 + count_events(b"".join(r.value for r in data[:number]))
        for number, record in enumerate(data)
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=8), st.integers(0, 8), CUTS)
def test_a_stream_taken_over_anywhere_has_every_text_once(texts, written, cuts):
    """A dead worker wrote so many events; the next one goes on from exactly those."""
    before, missing = texts[:written], texts[written:]

    async def taken_over() -> tuple[str, Shop]:
        rest = b"".join(chat(content=text) for text in missing) + CHAT_END
        at = await shop(ScriptedAnswer(cut(rest, cuts)))
        request = asked(body=body(stream=True))
        for number, text in enumerate(before):
            await send_reply(
                at.bus,
                ReplyRecord(request.id, "dead", DATA, number, chat(content=text), number + 1),
            )
        await send_reply(
            at.bus,
            ReplyRecord(request.id, "worker-1", "claim", supersedes="dead" if before else ""),
        )
        await turns()
        seen = await at.run(request, await at.lookup.look(request))
        return text_of(seen.text) if seen.state.outcome == COMPLETED else "", at

    text, at = asyncio.run(taken_over())
    if "".join(before)[-1:].isspace():
        assert not at.engine.jobs, "a template trims what follows a space, so it is not continued"
        return
    assert text == "".join(texts)
    if before:
        assert at.engine.bodies()[0]["messages"][-1]["content"] == "".join(before)


@pytest.mark.parametrize(
    ("path", "end", "missing"),
    [
        ("/chat/completions", chat("tool_calls", tool_calls=[{"index": 0}]), DONE_EVENT),
        ("/chat/completions", chat("stop") + DONE_EVENT + b": bye\n\n", b""),
        ("/messages", MESSAGES_END, b""),
        ("/responses", RESPONSES_END, b""),
    ],
)
async def test_a_stream_whose_last_event_is_in_the_log_lacks_nothing_but_its_end(
    path, end, missing
):
    at = await shop()
    request = asked(path=path, body=body(path="/chat/completions", stream=True))
    await send_reply(
        at.bus, ReplyRecord(request.id, "dead", DATA, 0, message("content_block_delta", "x") + end)
    )
    planned = plan(request, await at.lookup.look(request), continues=False)
    assert isinstance(planned, Finish)
    assert (planned.events, planned.outcome) == (missing, COMPLETED)


def test_an_event_that_looks_like_an_end_is_text_to_a_takeover():
    prefix = Prefix.of("/chat/completions", b"".join(chat(content=text) for text in SENTINELS))
    assert (prefix.text, prefix.finished, prefix.plain) == ("".join(SENTINELS), False, True)
    assert Prefix.of("/chat/completions", chat(content="a") + DONE_EVENT).plain
