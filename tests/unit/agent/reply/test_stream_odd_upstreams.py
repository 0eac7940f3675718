"""Streams of upstreams that do not keep to the form: what of them is a stream, a body, an end or an
error.
"""

from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from app.agent.engines.base import EngineSilent, EngineUnreachable
from app.agent.reply import reply_pass
from app.agent.reply.reply_pass import EVENT_STREAM
from app.errors import ReplyTooLarge, UpstreamInvalidReply
from app.openai_api.sse import DONE_EVENT, encode_event
from app.protocol.reply_state import COMPLETED, FAILED
from app.protocol.reply_view import ReplyView
from tests.numbered import sse, tokens
from tests.unit.agent.counted import counted
from tests.unit.agent.reply.test_stream_order import chat
from tests.unit.agent.scripted_engine import BROKEN, JSON, ScriptedAnswer, stream
from tests.unit.agent.shop import PLAIN, asked, error_of, shop
from tests.unit.scene import body, text_of

ASKED = {**PLAIN, "stream_options": {"include_usage": True}}
ERROR = {"error": {"message": "CUDA out of memory", "code": "oom"}}
OOM = orjson.dumps(ERROR)


def head(content_type: str) -> tuple[tuple[str, str], ...]:
    return (("content-type", content_type),) if content_type else ()


def shown(seen: ReplyView) -> dict[str, Any]:
    """The status and the Content-Type that the client gets."""
    return {"status": seen.parts[0].status, **dict(seen.parts[0].head)}


@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-ndjson", "application/json", "application/octet-stream"],
)
async def test_events_are_a_stream_whatever_the_content_type_says(content_type, cut):
    sent = b"".join(piece for piece in stream(ASKED) if isinstance(piece, bytes))
    pieces = [sent[place : place + cut] for place in range(0, len(sent), cut)]
    at = await shop(ScriptedAnswer(pieces, headers=head(content_type)))
    seen = await at.run(asked())
    assert shown(seen) == {"status": 200, "content-type": EVENT_STREAM}
    assert seen.text == b"".join(stream(PLAIN)), (
        "the usage that the worker asked for is not the client's"
    )


@pytest.mark.parametrize(
    "begin", [b": hello\n\n", b"event: x\n", b"id: 1\n", b"retry: 1\n", b"\n\n", b"\xef\xbb\xbf"]
)
async def test_each_field_may_begin_a_stream(begin):
    pieces = [begin, *stream(PLAIN)]
    seen = await (await shop(ScriptedAnswer(pieces, headers=head("text/plain")))).run(asked())
    assert (seen.text, shown(seen)["content-type"]) == (b"".join(pieces), EVENT_STREAM)


async def test_a_cut_stream_without_a_content_type_is_not_complete():
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], BROKEN], headers=()))
    seen = await at.run(asked(body=body(stream=True, max_tokens=5)))
    assert (text_of(seen.text), seen.state.outcome, len(at.engine.jobs)) == (
        tokens(5),
        COMPLETED,
        2,
    )


@pytest.mark.parametrize("content_type", ["", "text/plain", "text/event-stream"])
@pytest.mark.parametrize("reply", [b"database: x", b"<p>data: x</p>", b'{"data":[1]}', b"[1]"])
async def test_a_success_that_is_no_stream_is_an_error_event(reply, content_type):
    seen = await (await shop(ScriptedAnswer([reply], headers=head(content_type)))).run(asked())
    assert (shown(seen)["status"], seen.state.outcome, len(seen.parts)) == (200, FAILED, 1)
    assert shown(seen)["content-type"].startswith("text/event-stream")
    assert reply.decode() in error_of(seen.text)["message"]


@pytest.mark.parametrize("content_type", ["", "application/json", "text/event-stream"])
async def test_a_whole_reply_where_a_stream_was_asked_for_is_its_events(content_type):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "data: x"},
        "finish_reason": "stop",
    }
    reply = {
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 3},
    }
    at = await shop(ScriptedAnswer([orjson.dumps(reply)], headers=head(content_type)))
    seen = await at.run(asked())
    chunk = {"index": 0, "finish_reason": "stop", "delta": choice["message"]}
    assert (
        seen.text
        == sse({**reply, "object": "chat.completion.chunk", "choices": [chunk]}) + DONE_EVENT
    )
    assert (shown(seen)["status"], seen.state.outcome) == (200, COMPLETED)
    assert shown(seen)["content-type"].startswith("text/event-stream")
    assert dict(seen.parts[-1].notes)["usage"] == '{"prompt_tokens":3}'


async def test_a_continued_stream_that_gets_a_whole_reply_is_lost():
    answers = (
        ScriptedAnswer([*stream(PLAIN)[:3], BROKEN]),
        ScriptedAnswer([b'{"choices":[]}'], headers=JSON),
    )
    seen = await (await shop(*answers)).run(asked(body=body(stream=True, max_tokens=5)))
    assert (seen.state.outcome, error_of(seen.text)["code"]) == (FAILED, "worker_lost")
    assert "no stream" in error_of(seen.text)["message"]


async def test_a_whole_reply_that_is_no_stream_is_as_large_as_an_event_at_most():
    at = await shop(ScriptedAnswer([b"[%b]" % bytes(2000)], headers=JSON))
    at.context.most_event = 1000
    (part,) = (await at.run(asked())).parts
    assert (part.status, part.code) == (502, ReplyTooLarge.code)


@pytest.mark.parametrize(
    "reply", [b'{"choices":[],"error":{"message":"x"}}', b'{"choices":[], "error" : "x"}']
)
async def test_a_whole_reply_that_names_an_error_is_a_failure_and_passes_unchanged(reply):
    seen = await (await shop(ScriptedAnswer([reply], headers=JSON))).run(asked(stream=False))
    assert (shown(seen)["status"], seen.text, seen.state.outcome) == (200, reply, FAILED)


@pytest.mark.parametrize(
    "reply",
    [
        b'{"error":null,"choices":[]}',
        b'{"choices":[{"text":"\\"error\\": 1"}]}',
        b'{"a":{"error":1}}',
    ],
)
async def test_a_whole_reply_without_an_error_of_its_own_is_complete(reply):
    seen = await (await shop(ScriptedAnswer([reply], headers=JSON))).run(asked(stream=False))
    assert (seen.text, seen.state.outcome) == (reply, COMPLETED)


@pytest.mark.parametrize(
    "reply", [OOM, b"data: " + OOM + b"\n\n", b"event: error\ndata: " + OOM + b"\n\n", OOM + b"\n"]
)
async def test_an_error_with_a_streams_content_type_has_its_own_status_and_body(reply):
    seen = await (await shop(ScriptedAnswer([reply], status=400))).run(asked())
    assert (shown(seen), seen.text) == ({"status": 400, "content-type": "application/json"}, OOM)
    seen = await (await shop(ScriptedAnswer([b"no such thing"], status=404))).run(asked())
    assert shown(seen)["content-type"].startswith("text/plain")


QUOTED = ScriptedAnswer(
    [b'{"error":{"message":"role: stream_options is not one"}}'], status=400, headers=JSON
)


async def test_an_error_that_repeats_a_clients_words_changes_nothing_for_others():
    at = await shop(QUOTED, QUOTED)
    refused = await at.run(asked())
    assert (refused.parts[0].status, refused.text) == (400, QUOTED.pieces[0])
    await at.run(asked())
    assert [sent.get("stream_options") for sent in at.engine.bodies()][2] == {"include_usage": True}


async def test_a_refusal_of_usage_is_forgotten_after_a_while(monkeypatch):
    at = await shop(ScriptedAnswer([b"stream_options: unknown"], status=422, headers=JSON))
    await at.run(asked())
    at.context.usage_refused_until -= 600
    await at.run(asked())
    assert ["stream_options" in sent for sent in at.engine.bodies()] == [True, False, True]


@pytest.mark.parametrize(
    "end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data:[DONE]"]
)
async def test_an_unterminated_last_event_is_the_end(end):
    pieces = [chat(content="a"), end]
    seen = await (await shop(ScriptedAnswer(pieces))).run(asked())
    assert (seen.text, seen.state.outcome) == (
        chat(content="a") + end.rstrip() + b"\n\n",
        COMPLETED,
    )


@pytest.mark.parametrize("last", [OOM, OOM + b"\n", OOM + b"\n\n", b"\n" + OOM + b"\r\n\r\n"])
@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
async def test_a_bare_line_of_json_is_the_reason(path, last):
    at = await shop(ScriptedAnswer([chat(content="a"), last]))
    seen = await at.run(asked(path=path))
    assert (error_of(seen.text), seen.state.outcome, len(at.engine.jobs)) == (
        ERROR["error"],
        FAILED,
        1,
    )


@pytest.mark.parametrize("end", [[], [BROKEN]])
async def test_the_client_is_told_that_the_upstream_ended_early(end):
    begun = [chat(content="a"), *end]
    at = await shop(ScriptedAnswer(begun), continues=False)
    error = error_of((await at.run(asked())).text)
    assert error["code"] == "worker_lost"
    assert "broke off" in error["message"]
    assert "worker that wrote" not in error["message"]


@pytest.mark.parametrize("pieces", [[], [b""], [b": hello\n\n"], [b"\n"]])
async def test_a_stream_that_is_always_empty_is_not_to_be_tried_again(pieces):
    at = await shop(*[ScriptedAnswer(pieces)] * 3)
    seen = await at.run(asked())
    final = seen.parts[-1]
    assert (final.outcome, final.code, len(at.engine.jobs)) == (FAILED, "upstream_invalid_reply", 3)
    assert b"answers with an empty stream" in final.value
    if not seen.text.startswith(b":"):
        assert dict(final.head)["x-should-retry"] == "false"


async def test_a_choice_that_finished_with_an_error_is_a_failure_and_passes_unchanged():
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    pieces = [chat(content="a"), sse({"choices": [choice]}), DONE_EVENT]
    seen = await (await shop(ScriptedAnswer(pieces))).run(asked())
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), FAILED)


@pytest.mark.parametrize("code", [502, "502", None])
async def test_a_chunk_with_an_error_beside_its_choices_is_a_failure_and_passes_unchanged(code):
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    pieces = [
        chat(content="a"),
        sse({"choices": [choice], "error": {"code": code, "message": "provider"}}),
        DONE_EVENT,
    ]
    seen = await (await shop(ScriptedAnswer(pieces))).run(asked())
    assert (seen.text, seen.state.outcome) == (b"".join(pieces), FAILED)


async def test_an_event_larger_than_a_record_is_refused_before_it_is_whole():
    at = await shop(ScriptedAnswer([b"data: "] + [b"x" * 1000] * 5000))
    at.context.most_event = 100_000
    taken = 0
    relay = at.engine.call

    async def counted(job: Any) -> Any:
        answer = await relay(job)
        pieces = answer.pieces

        def each() -> Any:
            nonlocal taken
            for piece in pieces:
                taken += 1
                yield piece

        answer.pieces = each()
        return answer

    at.engine.call = counted  # type: ignore[method-assign]
    seen = await at.run(asked())
    assert (seen.parts[-1].code, seen.parts[-1].status) == ("reply_too_large", 502)
    assert taken <= 102


async def test_a_body_that_never_ends_is_refused_where_a_stream_was_asked_for():
    at = await shop(ScriptedAnswer([b"{" + b" " * 1000] * 50, headers=JSON))
    at.context.most_body = 10_000
    seen = await at.run(asked())
    assert (seen.parts[-1].code, seen.parts[-1].status) == ("reply_too_large", 502)


LLAMA = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "system_fingerprint": "b1",
}
STOPPED = {"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}]}
TIMINGS = {"timings": {"prompt_n": 9, "predicted_per_second": 77.5}}
USAGE = {"usage": {"completion_tokens": 1, "prompt_tokens": 9, "total_tokens": 10}}


@pytest.mark.parametrize(
    ("asked_for", "unasked"),
    [
        # vLLM and Ollama: a chunk of its own for the usage.
        ([{**LLAMA, **STOPPED}, {**LLAMA, "choices": [], **USAGE}], [{**LLAMA, **STOPPED}]),
        # llama.cpp: the timings are in the last chunk, whichever that is.
        (
            [{**LLAMA, **STOPPED}, {**LLAMA, "choices": [], **USAGE, **TIMINGS}],
            [{**LLAMA, **STOPPED, **TIMINGS}],
        ),
        # OpenAI: `usage: null` in all other chunks.
        (
            [{**LLAMA, **STOPPED, "usage": None}, {**LLAMA, "choices": [], **USAGE}],
            [{**LLAMA, **STOPPED}],
        ),
        # A server that has the usage in its finish chunk for everybody.
        ([{**LLAMA, **STOPPED, **USAGE}], [{**LLAMA, **STOPPED, **USAGE}]),
        # No finish chunk to put the timings into: only the usage goes.
        ([{**LLAMA, "choices": [], **USAGE, **TIMINGS}], [{**LLAMA, "choices": [], **TIMINGS}]),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
async def test_without_the_clients_asking_all_but_the_usage_comes(asked_for, unasked, joined):
    sent = [
        chat(content="a"),
        *(encode_event(orjson.dumps(chunk)) for chunk in asked_for),
        DONE_EVENT,
    ]
    pieces = [b"".join(sent)] if joined else sent
    at = await shop(ScriptedAnswer(pieces), ScriptedAnswer(pieces))
    seen = await at.run(asked(body=body(stream=True, stream_options={"include_usage": True})))
    assert seen.text == b"".join(sent)
    seen = await at.run(asked())
    assert (
        seen.text
        == chat(content="a")
        + b"".join(encode_event(orjson.dumps(chunk)) for chunk in unasked)
        + DONE_EVENT
    )
    assert orjson.loads(dict(seen.parts[-1].notes)["usage"]) == USAGE["usage"]


@pytest.mark.parametrize("status", [401, 403, 407])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_token_that_is_refused_is_no_fault_of_the_clients(
    status, streamed, caplog, monkeypatch
):
    # a line of this second may be another test's
    monkeypatch.setattr(reply_pass.logger, "filters", [])
    body = (
        b'{"error":{"message":"Incorrect API key provided: sk-abcd***wxyz. Bearer secret-token"}}'
    )
    at = await shop(
        ScriptedAnswer([body], status=status, headers=JSON), token=SecretStr("secret-token")
    )
    (part,) = (await at.run(asked(stream=streamed))).parts
    assert (part.status, part.code, dict(part.head)["x-should-retry"]) == (
        502,
        "upstream_auth_failed",
        "false",
    )
    assert b"Incorrect" not in part.value
    assert "Incorrect API key provided: [redacted] Bearer [redacted]" in caplog.text
    assert "secret-token" not in caplog.text
    assert "wxyz" not in caplog.text


@pytest.mark.parametrize("pieces", [[b"half", BROKEN], [b"x" * 1_000_000]])
async def test_a_refused_token_is_one_whatever_becomes_of_its_body(pieces):
    at = await shop(ScriptedAnswer(pieces, status=401, headers=JSON))
    (part,) = (await at.run(asked(stream=False))).parts
    assert (part.code, len(at.engine.jobs)) == ("upstream_auth_failed", 1)


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_of_an_upstream_is_said_without_its_address(status):
    head = (("location", "http://10.0.0.1/"), *JSON)
    (part,) = (
        await (await shop(ScriptedAnswer([b""], status=status, headers=head))).run(asked())
    ).parts
    assert (part.status, part.code) == (502, "upstream_redirected")
    assert b"10.0.0.1" not in part.value


async def test_a_usage_beyond_64_bits_is_ignored():
    reply = b'{"choices":[],"usage":{"total_tokens":%d}}' % (1 << 80)
    seen = await (await shop(ScriptedAnswer([reply], headers=JSON))).run(asked(stream=False))
    assert (seen.text, seen.state.outcome, seen.parts[-1].usage) == (reply, COMPLETED, {})


async def test_an_upstream_that_was_silent_for_its_read_timeout_is_not_asked_again():
    for error in (
        EngineUnreachable("no byte", is_silent=True),
        ScriptedAnswer([EngineSilent("no byte")], headers=JSON),
    ):
        at = await shop(error)
        (part,) = (await at.run(asked(stream=False))).parts
        assert (part.status, dict(part.head)["x-should-retry"], len(at.engine.jobs)) == (
            502,
            "false",
            1,
        )


async def test_a_stream_that_falls_silent_is_continued():
    at = await shop(ScriptedAnswer([*stream(PLAIN)[:3], EngineSilent("no byte")]))
    seen = await at.run(asked(body=body(stream=True, max_tokens=6)))
    assert (seen.state.outcome, text_of(seen.text)) == (COMPLETED, tokens(6))


@pytest.mark.parametrize("kind", [UpstreamInvalidReply, ReplyTooLarge])
async def test_a_reply_that_cannot_be_passed_on_is_counted_and_not_asked_for_again(kind):
    before, at = counted("upstream_errors", kind="broken"), await shop(kind("its head"))  # type: ignore[arg-type]
    (part,) = (await at.run(asked(stream=False))).parts
    assert (part.status, part.code, dict(part.head)["x-should-retry"]) == (502, kind.code, "false")
    assert (len(at.engine.jobs), counted("upstream_errors", kind="broken")) == (1, before + 1)


async def test_an_upstream_that_is_not_there_is_named_by_its_model():
    (part,) = (
        await (await shop(EngineUnreachable("up:80: Connection refused"))).run(asked())
    ).parts
    assert b"the server of model 'm' did not answer: up:80: Connection refused" in part.value
