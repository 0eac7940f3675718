"""Where replies arrive: each to its own call, and to nobody's where there is none."""

import asyncio
import logging
import time

import pytest

from app.errors import BusError
from app.inference.reply_consumer import ReplyConsumer
from app.protocol.records import ReplyRecord
from app.protocol.reply_batch import encode_batch
from app.protocol.reply_state import CANCELLED, COMPLETED, DATA, FINAL
from tests.unit.gateway.calls import Fed, kept_of
from tests.unit.scene import MODEL, TOPICS, ScriptedBus, request, send_reply, started_bus, turns


@pytest.fixture
async def bus() -> ScriptedBus:
    return await started_bus()


@pytest.fixture
async def inbox(bus: ScriptedBus) -> ReplyConsumer:
    found = ReplyConsumer(bus, TOPICS.replies)
    await found.start([1])
    assert found.partition == 0
    return found


async def end(bus: ScriptedBus, id_: str, **members: object) -> None:
    await send_reply(bus, ReplyRecord(id_, "w", FINAL, **{"outcome": COMPLETED, **members}))  # type: ignore[arg-type]
    await turns()


def detached(inbox: ReplyConsumer, fed: Fed) -> None:
    """A request that waits here, and whose client has its 202."""
    inbox.add_request(fed.call)
    inbox.detach_client(fed.call, kept_of(fed.call))
    inbox.remove_request(fed.call)


async def taken(bus: ScriptedBus, used: list[int]) -> int:
    inbox = ReplyConsumer(bus, TOPICS.replies)
    await inbox.start(used)
    return inbox.partition


async def test_the_least_used_partition_is_taken():
    bus = await started_bus(KAFKA_RESPONSE_PARTITIONS="4")
    assert {await taken(bus, [0, 0, 1, 3, 1]) for _ in range(20)} == {2}


async def test_of_partitions_that_are_used_the_same_any_one_is_taken():
    bus = await started_bus(KAFKA_RESPONSE_PARTITIONS="2")
    # twenty draws of four missed one of them once in CI
    ones = [await taken(bus, [0, 1]) for _ in range(100)]
    assert set(ones) == {0, 1}


async def test_a_topic_that_is_not_made_yet_is_waited_for_like_a_log_that_is_away(bus):
    with pytest.raises(BusError):
        await ReplyConsumer(bus, "llm.other").start([])


async def test_what_was_there_before_is_nobodys_and_what_comes_is_at_its_position(bus):
    for number in range(5):
        await send_reply(bus, ReplyRecord(f"{number:032x}", "w", DATA), 0)
    inbox = ReplyConsumer(bus, TOPICS.replies)
    assert inbox.position == 0
    await inbox.start([1])
    assert inbox.position == 5
    await send_reply(bus, ReplyRecord("f" * 32, "w", DATA))
    await turns()
    assert inbox.position == 6


async def test_each_call_gets_its_own_records_and_no_others(bus, inbox):
    feds = [Fed() for _ in range(3)]
    for fed in feds:
        inbox.add_request(fed.call)
    for seq in range(2):
        for fed in feds[1:]:
            await send_reply(bus, ReplyRecord(fed.call.id, "w", DATA, seq, fed.call.id.encode()))
    await send_reply(bus, ReplyRecord("f" * 32, "w", DATA, 0, b"nobody's"))
    await turns()
    assert [fed.call.reply_state.next_seq for fed in feds] == [0, 2, 2]
    part = await feds[1].call.read_next_part(None)
    assert part is not None
    assert part.value == feds[1].call.id.encode()


async def test_a_call_that_has_ended_is_expected_no_more(bus, inbox):
    fed = Fed()
    inbox.add_request(fed.call)
    assert (len(inbox), inbox.pending_requests(), inbox.unstarted_by_model[MODEL]) == (
        1,
        [fed.call],
        1,
    )
    await end(bus, fed.call.id)
    assert (len(inbox), fed.call.reply_state.outcome, inbox.unstarted_by_model[MODEL]) == (
        0,
        COMPLETED,
        0,
    )


@pytest.mark.parametrize(
    "how", ["answered", "cancelled by a gateway", "dropped", "answered and dropped"]
)
async def test_calls_that_wait_for_a_worker_are_counted_each_once(bus, inbox, how):
    fed, other = Fed(), Fed()
    inbox.add_request(fed.call)
    inbox.add_request(other.call)
    if "answered" in how:
        await send_reply(bus, ReplyRecord(fed.call.id, "w", DATA))
        await turns()
        assert inbox.unstarted_by_model[MODEL] == 1
    if "cancelled" in how:
        await end(bus, fed.call.id, outcome=CANCELLED, by_gateway=True)
    inbox.remove_request(fed.call)
    inbox.remove_request(fed.call)
    assert (inbox.unstarted_by_model[MODEL], len(inbox)) == (1, 1)


async def test_they_are_counted_by_tenant_too(bus, inbox):
    feds = [Fed(tenant=tenant) for tenant in ("a", "a", "b")]
    for fed in feds:
        inbox.add_request(fed.call)
    assert (inbox.unstarted_by_tenant[MODEL, "a"], inbox.unstarted_by_tenant[MODEL, "b"]) == (2, 1)
    await send_reply(bus, ReplyRecord(feds[0].call.id, "w", DATA))
    await turns()
    inbox.remove_request(feds[2].call)
    assert (inbox.unstarted_by_tenant[MODEL, "a"], inbox.unstarted_by_tenant[MODEL, "b"]) == (1, 0)


@pytest.mark.parametrize("kind", [DATA, FINAL])
async def test_what_belongs_to_no_connection_counts_until_a_worker_begins_to_answer_it(
    bus, inbox, kind
):
    asked = request(now=time.time(), seconds=60, tenant="a")
    detached(inbox, Fed(asked))
    assert (len(inbox), inbox.unstarted_by_model[MODEL], inbox.unstarted_by_tenant[MODEL, "a"]) == (
        0,
        1,
        1,
    )
    for seq in range(2):
        await send_reply(
            bus, ReplyRecord(asked.id, "w", kind, seq, outcome=COMPLETED if kind == FINAL else "")
        )
        await turns()
        assert (inbox.unstarted_by_model[MODEL], inbox.unstarted_by_tenant[MODEL, "a"]) == (0, 0)
    await asyncio.sleep(100)
    assert inbox.unstarted_by_model[MODEL] == 0


async def test_what_a_worker_has_begun_before_its_client_is_let_go_counts_no_more(bus, inbox):
    fed = Fed(request(now=time.time(), seconds=60))
    inbox.add_request(fed.call)
    await send_reply(bus, ReplyRecord(fed.call.id, "w", DATA))
    await turns()
    inbox.detach_client(fed.call, kept_of(fed.call))
    await end(bus, fed.call.id, seq=1)
    assert (inbox.unstarted_by_model[MODEL], len(inbox.async_requests)) == (0, 0)


async def test_what_belongs_to_no_connection_is_seen_to_begin_in_a_record_with_others(bus, inbox):
    waiting, let_go = Fed(), Fed(request(now=time.time(), seconds=60))
    inbox.add_request(waiting.call)
    detached(inbox, let_go)
    headers, value = encode_batch(
        [ReplyRecord(fed.call.id, "w", DATA, 0, b"x") for fed in (let_go, waiting)]
    )
    await bus.send(TOPICS.replies, value, key=b"k", headers=headers, partition=0)
    await turns()
    assert (inbox.unstarted_by_model[MODEL], waiting.call.has_started) == (0, True)


async def test_what_belongs_to_no_connection_counts_no_longer_than_its_deadline(bus, inbox):
    asked = request(now=time.time(), seconds=60)
    detached(inbox, Fed(asked))
    await asyncio.sleep(59)
    assert inbox.unstarted_by_model[MODEL] == 1
    await asyncio.sleep(2)
    assert inbox.unstarted_by_model[MODEL] == 0
    await end(bus, asked.id)
    assert (inbox.unstarted_by_model[MODEL], len(inbox.async_requests)) == (0, 0)


async def test_dropping_another_reader_of_the_same_request_leaves_the_first_its_place(bus, inbox):
    fed = Fed()
    joined = Fed(fed.call.request)
    inbox.add_request(fed.call)
    inbox.remove_request(joined.call)
    await end(bus, fed.call.id)
    assert fed.call.reply_state.outcome == COMPLETED


async def test_what_reads_on_from_the_log_by_itself_is_not_fed_here(bus, inbox):
    fed = Fed()
    inbox.add_request(fed.call)
    fed.call.is_fed_from_log = True
    await end(bus, fed.call.id)
    assert (fed.call.reply_state.outcome, len(inbox)) == ("", 1)


async def test_an_undecodable_record_is_said_and_passed_by(bus, inbox, caplog):
    fed = Fed()
    inbox.add_request(fed.call)
    headers = [("v", b"1"), ("id", fed.call.id.encode()), ("kind", b"odd")]
    await bus.send(TOPICS.replies, b"", key=b"k", headers=headers, partition=0)
    await end(bus, fed.call.id)
    assert fed.call.reply_state.outcome == COMPLETED
    assert [record.levelno for record in caplog.records if "undecodable" in record.message] == [
        logging.WARNING
    ]


async def test_waiting_for_the_last_call_ends_when_it_ends_or_the_time_is_up(bus, inbox):
    await inbox.wait_until_idle(0)
    fed = Fed()
    inbox.add_request(fed.call)
    waiting = asyncio.create_task(inbox.wait_until_idle(100))
    await asyncio.sleep(50)
    assert not waiting.done()
    await end(bus, fed.call.id)
    await waiting
    inbox.add_request(Fed().call)
    await inbox.wait_until_idle(10)
    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_closed_it_reads_nothing_more(bus, inbox):
    fed = Fed()
    inbox.add_request(fed.call)
    await inbox.close()
    await end(bus, fed.call.id)
    assert fed.call.reply_state.outcome == ""
    await ReplyConsumer(bus, TOPICS.replies).close()
