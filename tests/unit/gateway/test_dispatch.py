"""A request on its way into the log, when the log does not say for certain whether it has it."""

import pytest

from app.errors import BusUnavailable, NotDelivered, Unconfirmed
from app.gateway.dispatch import Dispatcher
from tests.unit.gateway.house import house, submission
from tests.unit.scene import LATE, LOST, REQUESTS, turns


async def opened(dispatcher: Dispatcher) -> int:
    """The offset of a new request."""
    call = await dispatcher.open(submission(), dispatcher.ticket())
    assert call.address is not None
    return call.address.offset


@pytest.mark.parametrize("fates", [[LOST], [LATE], [LATE, LOST, LATE]])
async def test_what_was_not_confirmed_is_written_again_and_a_worker_is_told_that_it_may_be_there(fates: list[str]) -> None:
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
