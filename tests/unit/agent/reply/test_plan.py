"""What to do about a request whose reply has come so far: what a client has read is never silently
begun anew.
"""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.reply.plan import Finish, Run, plan
from app.errors import ReplyLogTruncated, WorkerLost
from app.openai_api.bodies import CHAT, COMPLETIONS
from app.openai_api.sse import DONE_EVENT
from app.protocol.records import ReplyRecord, RequestRecord
from app.protocol.reply_state import DATA
from app.protocol.reply_view import ReplyView
from tests.numbered import Generation, tokens
from tests.unit.scene import body, chunks, request, text_of


def asked(path: str = CHAT, **members: Any) -> RequestRecord:
    return request(path=path, body=body(path=path.partition("?")[0], stream=True, **members))


def seen(*blocks: bytes, truncated: bool = False) -> ReplyView:
    found = ReplyView(is_truncated=truncated)
    for seq, block in enumerate(blocks):
        found.apply_record(ReplyRecord("0", "a", DATA, seq, block))
    return found


def written(
    req: RequestRecord, count: int, *, finish: bool = False, natural: int = 9
) -> list[bytes]:
    """The role (of a chat) and the first `count` tokens of a reply."""
    run = Generation.of("1", req.path.partition("?")[0], orjson.loads(req.body), natural)
    events = [run.opening(), *(run.token(index) for index in range(count))]
    return [event for event in events if event] + (
        [run.closing(False).removesuffix(DONE_EVENT)] if finish else []
    )


def test_what_nobody_has_written_is_run_as_it_came():
    req = asked()
    assert plan(req, seen(), True) == Run(req.body)


def test_a_whole_reply_is_begun_anew_whatever_there_is_of_it():
    req = request(stream=False)
    assert plan(req, seen(b'{"half'), False) == Run(req.body)


@pytest.mark.parametrize("stream", [True, False])
def test_what_may_have_lost_its_beginning_is_given_up(stream):
    assert isinstance(plan(request(stream=stream), seen(truncated=True), True), ReplyLogTruncated)


def test_behind_a_role_it_is_begun_anew_with_the_ids_that_were_sent():
    req = asked()
    planned = plan(req, seen(*written(req, 0)), False)
    assert isinstance(planned, Run)
    assert (planned.body, planned.goes_on) == (req.body, False)
    assert planned.joiner is not None
    assert planned.joiner.join(written(req, 0)[0]) == b""


def test_behind_comments_it_is_begun_as_if_nothing_was_there():
    req = asked()
    assert plan(req, seen(b": waiting\n\n"), False) == Run(req.body)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, f"{CHAT}?api-version=1", f"{COMPLETIONS}?a=b"])
def test_a_text_is_continued_where_the_upstream_can(path):
    req = asked(path, max_tokens=9)
    planned = plan(req, seen(*written(req, 4)), True)
    assert isinstance(planned, Run)
    assert planned.goes_on
    new = orjson.loads(planned.body)
    assert new["max_tokens"] == 5
    assert (new["messages"][-1]["content"] if "messages" in new else new["prompt"]).endswith(
        tokens(4)
    )


@pytest.mark.parametrize(
    ("continues", "members", "path"),
    [
        (False, {}, CHAT),
        (True, {"tools": [{"type": "function"}]}, CHAT),
        (True, {"logprobs": 1}, COMPLETIONS),
        (True, {}, "/responses"),
        (True, {}, "/audio/speech?x=1"),
    ],
)
def test_a_text_that_cannot_be_continued_is_lost(continues, members, path):
    req = request(path=path, body=body(stream=True, **members))
    assert isinstance(
        plan(req, seen(b'data: {"choices":[{"delta":{"content":"a"},"text":"a"}]}\n\n'), continues),
        WorkerLost,
    )


@pytest.mark.parametrize("continues", [True, False])
def test_when_only_the_end_is_missing_the_end_is_written(continues):
    req = asked()
    assert plan(req, seen(*written(req, 3, finish=True)), continues) == Finish(DONE_EVENT)


def test_a_used_up_budget_ends_the_text():
    req = asked(max_tokens=3)
    planned = plan(req, seen(*written(req, 3)), True)
    assert isinstance(planned, Finish)
    assert [
        choice["finish_reason"] for chunk in chunks(planned.events) for choice in chunk["choices"]
    ] == ["length"]


@given(
    path=st.sampled_from([CHAT, COMPLETIONS]),
    count=st.integers(0, 6),
    finish=st.booleans(),
    continues=st.booleans(),
    members=st.sampled_from([{}, {"max_tokens": 6}, {"stop": ["x"]}, {"n": 2}]),
)
def test_visible_text_is_continued_ended_or_given_up_but_never_begun_anew(
    path, count, finish, continues, members
):
    req = asked(path, **members)
    blocks = written(req, count, finish=finish)
    planned = plan(req, seen(*blocks), continues)
    if text_of(b"".join(blocks)) or finish:
        assert isinstance(planned, Finish | WorkerLost) or planned.goes_on
    else:
        assert isinstance(planned, Run)
        assert not planned.goes_on
