"""A call: fed by the log, read by whoever answers the client, in either order."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BusUnavailable, ClientGone
from app.inference.pending_request import PendingRequest
from app.protocol.records import ReplyRecord
from app.protocol.reply_state import COMPLETED, FINAL, RecordEffect
from app.protocol.request_id import Address
from tests.unit.gateway.calls import TOPIC, WORKER, Fed
from tests.unit.scene import request, turns


async def values(call: PendingRequest) -> list[bytes]:
    """What its reader gets, to the end."""
    found = []
    while True:
        part = await call.read_next_part(None)
        assert part is not None
        found.append(part.value)
        if part.outcome:
            return found


def test_once_it_is_in_the_log_a_call_has_an_address_and_no_body():
    asked = request(reply_partition=3, reply_offset=11)
    call = PendingRequest(asked, "llm.requests.m", "m")
    assert (call.public_id, call.request.body) == ("", asked.body)
    call.mark_accepted(2, 40)
    assert Address.decode(call.public_id) == Address(asked.id, TOPIC, 2, 40, 3, 11)
    assert call.request.body == b""


@given(ahead=st.integers(0, 5), count=st.integers(1, 6))
async def test_parts_come_in_order_whether_the_reader_or_the_log_is_ahead(ahead, count):
    fed = Fed()
    for number in range(min(ahead, count)):
        fed.data(b"%d" % number)
    reading = asyncio.create_task(values(fed.call))
    await turns(3)
    for number in range(min(ahead, count), count):
        fed.data(b"%d" % number)
        await turns(2)
    fed.end(b"end")
    assert await reading == [b"%d" % number for number in range(count)] + [b"end"]


async def test_what_does_not_count_is_not_handed_on():
    fed = Fed()
    fed.data(b"a")
    assert (
        fed.feed(ReplyRecord(fed.call.id, "zombie", FINAL, 1, b"no", outcome=COMPLETED))
        is RecordEffect.IGNORED
    )
    assert fed.claim("new") is RecordEffect.CLAIMED
    assert fed.data(b"late", owner=WORKER) is RecordEffect.IGNORED
    fed.data(b"b", owner="new")
    fed.end(b"c", owner="new")
    assert fed.end(b"d", owner="new") is RecordEffect.IGNORED
    assert await values(fed.call) == [b"a", b"b", b"c"]


async def test_a_whole_reply_comes_when_its_last_record_is_there():
    fed = Fed(stream=False)
    reading = asyncio.create_task(fed.call.read_whole_reply(None))
    fed.whole(b"one", b"two")
    assert [part.value for part in await reading or ()] == [b"one", b"two"]


async def test_a_new_writer_of_a_whole_reply_begins_anew():
    fed = Fed(stream=False)
    fed.data(b"half of the first")
    fed.claim("new")
    fed.data(b"all ", owner="new")
    fed.end(b"of it", owner="new")
    assert [part.value for part in await fed.call.read_whole_reply(None) or ()] == [
        b"all ",
        b"of it",
    ]


async def test_a_new_writer_of_a_stream_goes_on():
    fed = Fed()
    fed.data(b"one")
    fed.claim("new")
    fed.end(b"two", owner="new")
    assert await values(fed.call) == [b"one", b"two"]


async def test_nothing_within_the_time_is_none():
    fed, loop = Fed(), asyncio.get_running_loop()
    assert await fed.call.read_next_part(3) is None
    assert loop.time() == pytest.approx(3)
    assert await fed.call.read_whole_reply(4) is None
    assert loop.time() == pytest.approx(7)
    fed.data(b"a")
    assert await fed.call.read_whole_reply(1) is None, "a part is not the whole"


@pytest.mark.parametrize("waiting", [True, False])
@pytest.mark.parametrize("how", ["read_next_part", "read_whole_reply"])
async def test_a_client_that_has_left_is_noticed_at_once_even_if_nobody_was_waiting(waiting, how):
    call = Fed().call
    if not waiting:
        call.mark_client_left()
    reading = asyncio.create_task(getattr(call, how)(60))
    await turns()
    call.mark_client_left()
    with pytest.raises(ClientGone):
        await reading
    assert asyncio.get_running_loop().time() == 0


async def test_what_had_come_before_the_client_left_is_still_handed_on():
    fed = Fed()
    fed.data(b"a")
    fed.call.mark_client_left()
    part = await fed.call.read_next_part(None)
    assert part is not None
    with pytest.raises(ClientGone):
        await fed.call.read_next_part(None)


async def test_broken_off_a_call_ends_for_its_reader_and_not_in_the_log():
    fed = Fed()
    fed.data(b"a")
    fed.call.end_locally(ReplyRecord(fed.call.id, "g", FINAL, value=b"away", outcome="failed"))
    assert await values(fed.call) == [b"a", b"away"]
    assert fed.call.reply_state.outcome == ""


class Log:
    """Feeds a call again from where it stopped, as the reply reader does."""

    def __init__(self, values: list[bytes]) -> None:
        self.values = values
        self.reads: list[int] = []
        self.away = 0  # so many times

    async def refill(self, call: PendingRequest) -> None:
        if self.away:
            self.away -= 1
            raise BusUnavailable("away")
        self.reads.append(call.next_offset)
        call.is_fed_from_log, call.has_unfetched_records = True, False
        for offset in range(call.next_offset, len(self.values)):
            last = offset == len(self.values) - 1
            kind, outcome = (FINAL, COMPLETED) if last else ("data", "")
            call.apply_record(
                ReplyRecord(call.id, WORKER, kind, offset, self.values[offset], outcome=outcome),
                offset,
            )
            if call.has_unfetched_records:
                return


async def test_for_a_slow_client_what_is_much_stays_in_the_log():
    fed, log = Fed(), Log([b"%d" % (number % 10) * 100_000 for number in range(30)])
    fed.call.refill_from_log = log.refill
    held = 0
    for offset, value in enumerate(log.values[:-1]):
        if not fed.call.is_fed_from_log:
            fed.call.apply_record(ReplyRecord(fed.call.id, WORKER, "data", offset, value), offset)
            held += len(value)
    assert held < 600_000
    assert fed.call.has_unfetched_records
    assert await values(fed.call) == log.values
    assert len(log.reads) > 5, "it was read on piece by piece"


async def test_while_the_log_is_away_a_slow_client_waits_and_then_goes_on():
    fed, log = Fed(), Log([b"%d" % (number % 10) * 100_000 for number in range(10)])
    fed.call.refill_from_log = log.refill
    for offset, value in enumerate(log.values[:-1]):
        fed.call.apply_record(ReplyRecord(fed.call.id, WORKER, "data", offset, value), offset)
    log.away = 3
    parts = [await fed.call.read_next_part(60) for _ in range(10 + log.away)]
    assert [part.value for part in parts if part] == log.values
    assert parts.count(None) == 3, "each time it may keep its client awake"


async def test_a_whole_reply_is_never_left_in_the_log():
    fed, log = Fed(stream=False), Log([])
    fed.call.refill_from_log = log.refill
    fed.whole(bytes(500_000), bytes(500_000), bytes(500_000), b"end")
    assert sum(len(part.value) for part in await fed.call.read_whole_reply(60) or ()) == 1_500_003
    assert log.reads == []


def test_it_is_answered_once_a_worker_writes_or_claims():
    for act in ("data", "claim", "end"):
        fed = Fed()
        assert not fed.call.has_started
        fed.claim("new", "") if act == "claim" else getattr(fed, act)(b"x")
        assert fed.call.has_started
    fed = Fed()
    fed.cancelled()
    assert not fed.call.has_started
