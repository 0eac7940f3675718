"""One request against an engine: what the log then has for its reader."""

import asyncio
import logging

import orjson
import pytest

from app.agent.reply.event_relay import MOST_UNSETTLED
from app.agent.reply.job_run import DEADLINE_LEEWAY, JobRun
from app.openai_api.bodies import EMBEDDINGS
from app.openai_api.sse import DONE_EVENT
from app.protocol.reply_state import COMPLETED, EXPIRED, FAILED
from app.protocol.reply_view import ReplyView
from tests.numbered import sse, tokens
from tests.unit.agent.scripted_engine import JSON, Hold, ScriptedAnswer, stream
from tests.unit.agent.shop import PLAIN, asked, error_of, shop
from tests.unit.scene import (
    HELD,
    MODEL,
    chunks,
    text_of,
    turns,
    until,
)


async def test_a_stream_is_passed_on_byte_for_byte_and_its_end_lies_in_the_final_record():
    pieces = stream(PLAIN)
    at = await shop(ScriptedAnswer(pieces))
    seen = await at.run(asked())
    assert seen.text == b"".join(pieces)
    final = seen.parts[-1]
    assert final.outcome == COMPLETED
    assert final.value.endswith(pieces[-1])
    assert (seen.parts[0].status, dict(seen.parts[0].head)) == (
        200,
        {"content-type": "text/event-stream"},
    )
    assert {"worker", "queue-ms", "upstream-ms"} <= set(dict(final.notes))
    assert at.engine.given[0].closed


async def test_events_cut_anywhere_are_written_whole():
    whole = b"".join(stream(PLAIN))
    at = await shop(ScriptedAnswer([whole[cut : cut + 7] for cut in range(0, len(whole), 7)]))
    seen = await at.run(asked())
    assert seen.text == whole
    assert all(part.value.endswith(b"\n\n") for part in seen.parts if part.value)


async def test_an_upstream_faster_than_the_log_is_read_on_up_to_a_bound():
    first, *others = stream(PLAIN)
    big = b": %b\n\n" % (b"x" * MOST_UNSETTLED)
    before, behind = Hold(), Hold()
    at = await shop(ScriptedAnswer([first, before, big, behind, *others]))
    at.bus.script.append(HELD)
    running = asyncio.create_task(at.run(asked()))
    await until(lambda: at.bus.held)
    await until(before.reached.is_set)
    before.released.set()
    await turns()
    assert not behind.reached.is_set()
    at.bus.release()
    behind.released.set()
    assert (await running).text == b"".join([first, big, *others])


async def test_the_usage_that_the_reply_names_is_noted():
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    at = await shop(
        ScriptedAnswer([orjson.dumps({"text": '"usage": {"no": 1}', "usage": usage})], headers=JSON)
    )
    seen = await at.run(asked(stream=False))
    assert orjson.loads(dict(seen.parts[-1].notes)["usage"]) == usage


@pytest.mark.parametrize(
    "number", [b"1" * 17, b"9" * 30, b"18446744073709551616", b"-99999999999999999999"]
)
@pytest.mark.parametrize("stream_", [True, False])
async def test_a_usage_that_cannot_be_does_not_cost_the_reply(number, stream_):
    usage = b'{"prompt_tokens":%b,"completion_tokens":1}' % number
    if stream_:
        pieces = [*stream(PLAIN)[:-1], b'data: {"choices":[],"usage":%b}\n\n' % usage, DONE_EVENT]
        at = await shop(ScriptedAnswer(pieces), ask_usage=False)
    else:
        pieces = [b'{"choices":[],"usage":%b}' % usage]
        at = await shop(ScriptedAnswer(pieces, headers=JSON))
    seen = await at.run(asked(stream=stream_))
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), COMPLETED)
    assert "usage" not in dict(seen.parts[-1].notes)


async def test_a_usage_nested_too_deep_does_not_cost_the_stream():
    usage = b'{"a":' * 400 + b"1" + b"}" * 400
    pieces = [*stream(PLAIN)[:-1], b'data: {"choices":[],"usage":%b}\n\n' % usage, DONE_EVENT]
    seen = await (await shop(ScriptedAnswer(pieces), ask_usage=False)).run(asked())
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), COMPLETED)


async def test_an_upstreams_own_error_keeps_its_status_and_body():
    refusal = b'{"error":{"message":"slow down","code":"busy"}}'
    at = await shop(ScriptedAnswer([refusal], status=429, headers=(*JSON, ("retry-after", "3"))))
    seen = await at.run(asked())
    (part,) = seen.parts
    assert (part.status, part.value, part.outcome) == (429, refusal, FAILED)
    assert dict(part.head)["retry-after"] == "3"


async def test_an_error_event_ends_the_stream_as_it_is_and_is_not_retried():
    pieces = [*stream(PLAIN)[:3], sse({"error": {"message": "out of memory"}})]
    at = await shop(ScriptedAnswer(pieces))
    seen = await at.run(asked())
    assert (seen.text, seen.state.outcome, len(at.engine.jobs)) == (b"".join(pieces), FAILED, 1)


async def test_an_error_event_in_front_of_the_end_is_an_error_too():
    pieces = [*stream(PLAIN)[:3], sse({"error": {"message": "out of memory"}}), DONE_EVENT]
    seen = await (await shop(ScriptedAnswer(pieces))).run(asked())
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), FAILED)


BEGUN, STOPPED = (
    b'event: x\ndata: {"type":"message_start"}\n\n',
    b'event: x\ndata: {"type":"message_stop"}\n\n',
)


SAID = (
    b'event: response.completed\ndata: {"type":"response.completed","response":{"output":"%s"}}\n\n'
    % (b"x" * 9000)
)


REFUSED = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
)


GAVE_UP = (
    b"event: response.failed\ndata: "
    b'{"type":"response.failed","response":{"error":{"message":"busy"}}}\n\n'
)


@pytest.mark.parametrize(
    ("path", "end", "outcome"),
    [
        ("/audio/transcriptions", b"data: {}\n\n", COMPLETED),  # a clean end is the end
        ("/messages", STOPPED, COMPLETED),
        ("/messages", REFUSED, FAILED),
        ("/responses?a=b", SAID, COMPLETED),
        ("/responses", GAVE_UP, FAILED),
        ("/responses", REFUSED, FAILED),
    ],
)
async def test_each_api_has_its_own_ends_which_pass_as_they_are(path, end, outcome):
    at = await shop(ScriptedAnswer([BEGUN, end]))
    seen = await at.run(asked(path=path))
    assert (seen.text, seen.state.outcome, len(at.engine.jobs)) == (BEGUN + end, outcome, 1)


async def test_a_stream_of_another_api_that_just_stops_ends_with_an_error_in_its_own_words():
    begin = b'event: error\ndata: {"type":"error",'
    for path, kind in (
        ("/messages", begin + b'"error":{'),
        ("/responses", begin + b'"sequence_number":0,'),
    ):
        seen = await (await shop(ScriptedAnswer([BEGUN]))).run(asked(path=path))
        assert (seen.text.startswith(BEGUN + kind), seen.state.outcome) == (True, FAILED)
        assert b'"code":"worker_lost"' in seen.text


async def test_the_prompt_that_a_streams_beginning_counts_is_noted_with_what_its_end_does():
    begun = BEGUN.replace(b"}", b',"message":{"usage":{"input_tokens":25,"output_tokens":1}}}')
    counted_ = b'event: x\ndata: {"type":"message_delta","usage":{"output_tokens":7}}\n\n'
    seen = await (await shop(ScriptedAnswer([begun, *[BEGUN] * 50, counted_, STOPPED]))).run(
        asked(path="/messages")
    )
    assert seen.parts[-1].usage == {"input_tokens": 25, "output_tokens": 7}


async def test_bytes_that_are_no_text_are_left_alone():
    sound = b'RIFF{"model":"up"}, "usage": {"prompt_tokens": 1}\xff'
    named = sound.replace(b'"up"', orjson.dumps(MODEL))
    for kind, passed, used in (("audio/wav", sound, {}), ("text/x", named, {"prompt_tokens": 1})):
        at = await shop(
            ScriptedAnswer([sound], headers=(("content-type", kind),)), upstream_model="up"
        )
        seen = await at.run(asked(stream=False))
        assert (seen.parts[-1].value, seen.parts[-1].usage) == (passed, used)


async def test_a_last_event_without_its_blank_line_is_completed_and_passed_on():
    pieces = [
        *stream(PLAIN)[:-1],
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]",
    ]
    for last in (b"", b"\n", b"\r\n"):
        at = await shop(ScriptedAnswer([*pieces, last]))
        seen = await at.run(asked())
        assert (seen.text, seen.state.outcome) == (b"".join(pieces) + b"\n\n", COMPLETED)


async def test_an_alias_names_the_upstreams_model_on_the_way_in_and_the_clients_on_the_way_out():
    at = await shop(upstream_model="org/real", aliases=("nick",))
    asks = b'{"stream": true, "stream_options": {"include_usage": true}, '
    raw = (
        asks
        + b'"model" : "nick", "messages":[{"role":"user","content":"say \\"model\\":\\"nick\\""}]}'
    )
    seen = await at.run(asked(model="nick", body=raw))
    assert at.engine.jobs[0].body == raw.replace(b'"model" : "nick"', b'"model" : "org/real"')
    assert {chunk["model"] for chunk in chunks(seen.text)} == {"nick"}
    at = await shop(
        ScriptedAnswer([b'{"model":"org/real"}'], headers=JSON), upstream_model="org/real"
    )
    seen = await at.run(asked(path=EMBEDDINGS, stream=False, body=b'{"model":"m","input":"a"}'))
    assert (at.engine.bodies()[0]["model"], orjson.loads(seen.text)["model"]) == ("org/real", "m")


async def test_the_upstream_is_told_the_way_that_the_request_has_come():
    at = await shop()
    await at.run(asked(hops="other", head=(("openai-beta", "x"),)))
    assert dict(at.engine.jobs[0].head) == {
        "openai-beta": "x",
        "x-llm-gateway-hops": f"other,{at.bus.deployment}",
    }


async def test_what_expired_in_the_queue_is_never_run():
    at = await shop()
    (part,) = (await at.run(asked(seconds=-DEADLINE_LEEWAY - 0.1))).parts
    assert (part.status, part.outcome, part.code, at.engine.jobs) == (
        504,
        EXPIRED,
        "deadline_exceeded",
        [],
    )


async def test_what_is_not_done_at_its_deadline_ends_there():
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], Hold()]))
    seen = await at.run(asked(seconds=30))
    assert (seen.state.outcome, error_of(seen.text)["code"], text_of(seen.text)) == (
        EXPIRED,
        "deadline_exceeded",
        tokens(2),
    )
    assert at.engine.given[0].closed
    assert asyncio.get_running_loop().time() == pytest.approx(30 + DEADLINE_LEEWAY, abs=1)


async def test_a_cancelled_job_ends_the_upstreams_work_and_writes_no_end():
    hold = Hold()
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], hold]))
    req = asked()
    task = asyncio.create_task(JobRun(at.context, req, ReplyView()).run())
    await hold.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert at.engine.given[0].closed
    assert (await at.lookup.look(req)).state.outcome == ""


async def test_a_fault_of_ours_is_the_clients_to_hear_and_the_logs_to_explain(caplog):
    at = await shop()
    at.engine.call = None  # type: ignore[assignment,method-assign]
    (part,) = (await at.run(asked())).parts
    assert (part.status, part.code) == (500, "internal_error")
    assert [
        record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR
    ] == [True]
