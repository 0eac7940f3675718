"""A request on its way into the log, when the log does not say for certain whether it has it."""

import asyncio
import time

import pytest

from app.errors import BusUnavailable, NotDelivered, Unconfirmed
from app.inference.dispatcher import Dispatcher
from app.protocol.heartbeats import WorkerHeartbeat
from app.protocol.reply_state import CANCELLED, EXPIRED
from tests.unit.gateway.house import CARD, Client, house, submission
from tests.unit.scene import LATE, LOST, MODEL, REQUESTS, TOPICS, turns, until


async def opened(dispatcher: Dispatcher) -> int:
    """The offset of a new request."""
    call = await dispatcher.submit_request(submission(), dispatcher.issue_ticket())
    assert call.address is not None
    return call.address.offset


@pytest.mark.parametrize("fates", [[LOST], [LATE], [LATE, LOST, LATE]])
async def test_what_was_not_confirmed_is_written_again_and_a_worker_is_told_that_it_may_be_there(
    fates: list[str],
) -> None:
    async with house(KAFKA_REQUEST_PARTITIONS="1") as at:
        at.bus.scripted, at.bus.error = REQUESTS, Unconfirmed
        at.bus.script.extend(fates)
        dispatcher = (await at.gateway()).dispatcher
        offset = await opened(dispatcher)
        await turns()
        written = len(fates) - fates.count(LOST) + 1
        assert len(at.requests) == written
        assert offset < written, "its address is that of the last, which is confirmed"
        assert at.requests[-1].maybe_duplicate
        assert len({request.id for request in at.requests}) == 1
        assert at.controls == []


async def test_what_was_refused_is_not_written_again_and_its_end_is() -> None:
    async with house() as at:
        at.bus.scripted, at.bus.error = REQUESTS, NotDelivered
        at.bus.script.append(LOST)
        dispatcher = (await at.gateway()).dispatcher
        with pytest.raises(BusUnavailable, match="as scripted"):
            await opened(dispatcher)
        await turns()
        assert at.requests == []
        assert [control.kind for control in at.controls] == ["cancel"]


async def test_who_has_joined_a_request_that_could_not_be_queued_is_asked_to_send_it_again() -> (
    None
):
    """Seen in a chaos run: the gateway that wrote first was cut off, and the other one's client got
    `request_cancelled`.
    """
    async with house() as at:
        gateway, other = await at.gateway(), await at.gateway()
        at.bus.scripted, at.bus.error = REQUESTS, NotDelivered
        at.bus.script.append(LOST)
        ticket = gateway.dispatcher.issue_ticket()
        with pytest.raises(BusUnavailable):
            await gateway.dispatcher.submit_request(submission(), ticket)
        async with other.reply_reader.follow_reply(
            await other.dispatcher.resubmit_request(submission(), ticket)
        ) as joined:
            (final,) = await joined.read_whole_reply(None) or []
        assert (final.status, final.outcome, final.code) == (503, CANCELLED, "bus_unavailable")
        assert dict(final.head)["retry-after"] == "1"


@pytest.mark.parametrize(
    ("runs", "said"),
    [(True, "its model's server"), (False, "a worker: no worker of it is running")],
)
async def test_one_that_expires_says_what_it_waited_for(runs: bool, said: str) -> None:
    async with house() as at:
        gateway = await at.gateway()
        client = Client(gateway.dispatcher.open_request(submission(timeout_seconds=2)))
        call = await client.waits()
        if runs:
            beat = WorkerHeartbeat(
                "w",
                MODEL,
                REQUESTS,
                CARD.group,
                TOPICS.replies,
                time.time(),
                1.0,
                running=(call.id,),
            )
            gateway.model_registry.all()[0].workers["w"] = beat
        await until(lambda: call.reply_state.outcome == EXPIRED)
        assert said in (await call.read_whole_reply(None) or [])[-1].value.decode()
        await client.leaves()


async def test_one_that_expires_is_told_so_though_its_model_was_forgotten_meanwhile() -> None:
    async with house() as at:
        gateway = await at.gateway()
        client = Client(gateway.dispatcher.open_request(submission(timeout_seconds=2)))
        call = await client.waits()
        await at.bus.send(TOPICS.models, None, key=MODEL.encode(), headers=[("v", b"1")])
        await until(lambda: gateway.model_registry.find(MODEL) is None)
        await until(lambda: call.reply_state.outcome == EXPIRED)
        await client.leaves()


async def test_what_expired_while_nobody_served_leaves_its_room_in_the_queue_to_others() -> None:
    async with house(MAX_QUEUE_DEPTH="3") as at:
        gateways = [await at.gateway(), await at.gateway()]
        clients = [
            Client(gateway.dispatcher.open_request(submission(timeout_seconds=1)))
            for gateway in gateways
            for _ in range(3)
        ]
        calls = [await client.waits() for client in clients]
        await until(lambda: all(call.reply_state.outcome == EXPIRED for call in calls))
        await asyncio.sleep(5)  # several measurements
        assert [gateway.model_registry.all()[0].queue_depth for gateway in gateways] == [0, 0]
        for client in clients:
            await client.leaves()
