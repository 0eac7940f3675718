"""The same key again: joined while it runs, replayed when it has ended, run anew where that may
help; one request in the log.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from app.errors import (
    BadRequest,
    BusUnavailable,
    GatewayError,
    IdempotencyConflict,
    InternalError,
    ModelNotFound,
    QueueFull,
    StoreUnavailable,
    UpstreamUnreachable,
    WorkerLost,
)
from app.inference.idempotency_entry import IdempotencyEntry
from app.inference.submission import Ticket
from app.openai_api.sse import DONE_EVENT
from app.protocol.reply_state import CANCELLED, FINAL
from app.protocol.request_id import new_id
from tests.unit.gateway.house import House, house, keyed
from tests.unit.scene import until

WHOLE = b'data: {"n":1}\n\n' + DONE_EVENT


@pytest.fixture
async def at() -> AsyncIterator[House]:
    async with house(CANCEL_GRACE_SECONDS="30") as made:
        await made.gateway()
        await made.gateway()
        yield made


async def test_a_key_that_is_new_is_a_request_of_its_own(at):
    one, two = keyed(at.gateways[0]), keyed(at.gateways[1], "other")
    await one.waits()
    await two.waits()
    assert len({asked.id for asked in at.requests}) == 2
    assert [asked.maybe_duplicate for asked in at.requests] == [False, False]


@pytest.mark.parametrize("second", [0, 1])
async def test_while_it_runs_it_is_joined_from_its_first_event_on(at, second):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    await at.begin(asked)
    two = keyed(at.gateways[second])
    assert (await two.waits()).public_id == (await one.waits()).public_id
    await at.complete(asked)
    assert await one.reply() == await two.reply() == WHOLE
    assert len(at.requests) == 1


@pytest.mark.parametrize("second", [0, 1])
async def test_when_it_has_ended_it_is_replayed(at, second):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    await at.begin(asked)
    await at.complete(asked)
    assert await one.reply() == WHOLE
    await asyncio.sleep(600)
    for _ in range(2):
        again = keyed(at.gateways[second])
        assert await again.reply() == WHOLE
        assert (await again.waits()).public_id == (await one.waits()).public_id
    assert len(at.requests) == 1


async def test_a_crowd_with_one_key_at_once_is_one_request(at):
    crowd = [keyed(at.gateways[number % 2]) for number in range(20)]
    asked = await at.arrived(1)
    await at.begin(asked)
    await at.complete(asked)
    assert {await one.reply() for one in crowd} == {WHOLE}
    assert len(at.requests) == 1


@pytest.mark.parametrize("members", [{"body": b"{}"}, {"path": "/completions"}])
async def test_a_key_that_was_used_for_something_else_is_a_conflict(at, members):
    await keyed(at.gateways[0]).waits()
    for gateway in at.gateways:
        with pytest.raises(IdempotencyConflict):
            await keyed(gateway, **members).waits()


async def test_another_tenants_key_is_another_key(at):
    await keyed(at.gateways[0]).waits()
    await keyed(at.gateways[0], tenant="u", body=b"{}").waits()
    assert len(at.requests) == 2


@pytest.mark.parametrize(
    ("error", "anew"),
    [
        (UpstreamUnreachable("gone"), True),
        (QueueFull("busy"), True),
        (InternalError("oh"), True),
        (BadRequest("no"), False),
        (ModelNotFound("no"), False),
    ],
)
async def test_what_failed_in_a_way_that_may_pass_is_run_anew(at, error, anew):
    one = keyed(at.gateways[0])
    await at.fail(await at.arrived(1), error)
    await one.reply()
    again = keyed(at.gateways[1])
    if anew:
        asked = await at.arrived(2)
        assert asked.id != at.requests[0].id
        assert not asked.maybe_duplicate
        await at.begin(asked)
        await at.complete(asked)
        assert await again.reply() == WHOLE
        assert await keyed(at.gateways[0]).reply() == WHOLE, "the key stands for the new one"
    else:
        assert await again.reply() == error.encode_body()
    assert len(at.requests) == 1 + anew


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "expired", "lost"])
async def test_what_was_cancelled_expired_or_lost_is_run_anew_however_far_it_had_come(
    at, how, shown
):
    one = keyed(at.gateways[0], timeout_seconds=20)
    asked = await at.arrived(1)
    if shown:
        await at.begin(asked)
    if how == "cancelled":
        at.gateways[0].dispatcher.end_request(await one.waits(), CANCELLED)
    elif how == "lost":
        error = WorkerLost("gone")
        await at.write(
            asked,
            FINAL,
            int(shown),
            error.encode_body(),
            outcome="failed",
            code="worker_lost",
            status=0 if shown else 502,
        )
    await one.reply()
    keyed(at.gateways[1])
    assert (await at.arrived(2)).id != asked.id


async def test_a_request_that_its_first_gateway_never_wrote_is_written_under_the_same_id(
    at,
):
    ticket = Ticket(new_id(), 1, 0)
    await hold(at, ticket)
    one, two = keyed(at.gateways[0]), keyed(at.gateways[1])
    await until(lambda: at.requests)
    asked = at.requests[0]
    assert (asked.id, asked.reply_partition, asked.reply_offset, asked.maybe_duplicate) == (
        ticket.id,
        1,
        0,
        True,
    )
    await at.begin(asked)
    await at.complete(asked)
    assert await one.reply() == await two.reply() == WHOLE
    assert {request.id for request in at.requests} == {ticket.id}
    assert all(request.maybe_duplicate for request in at.requests)


async def test_when_it_died_behind_the_request_too_the_same_reply_is_found(at):
    ticket = Ticket(new_id(), 1, 0)
    await hold(at, ticket)
    first = await at.lies(ticket)
    await at.begin(first)
    joined = keyed(at.gateways[0])
    await joined.waits()
    await at.complete(first)
    assert await joined.reply() == WHOLE
    assert [request.id for request in at.requests] == [ticket.id] * 2


async def hold(at: House, ticket: Ticket) -> None:
    """The key k as a gateway leaves it that dies right behind."""
    first = keyed(at.gateways[0])
    await first.waits()
    name = at.store.names[-1]
    digest = IdempotencyEntry.decode(await at.store.get(name) or b"").digest
    await first.leaves()
    await at.store.close()
    at.requests.clear()
    assert (
        await at.store.put_if_absent(
            name, IdempotencyEntry.from_ticket(ticket, digest).encode(), 600
        )
        is None
    )


async def test_a_key_whose_request_was_refused_is_free_again(at):
    at.gateways[0].admission.is_draining = True
    with pytest.raises(GatewayError):
        await keyed(at.gateways[0]).waits()
    with pytest.raises(ModelNotFound):
        await keyed(at.gateways[1], model="nobody's").waits()
    await keyed(at.gateways[1], body=b"other").waits()
    assert len(at.requests) == 1


async def test_a_joined_request_that_nobody_ends_expires_for_whoever_joined_it(at):
    one = keyed(at.gateways[0], timeout_seconds=20)
    await at.arrived(1)
    two = keyed(at.gateways[1], timeout_seconds=20)
    await asyncio.gather(one.reply(), two.reply())
    assert (one.outcome, two.outcome) == ("expired", "expired")
    assert asyncio.get_running_loop().time() < 30


async def test_a_store_that_is_away_is_503_and_costs_no_request(at, monkeypatch):
    monkeypatch.setattr(at.store, "put_if_absent", away)
    with pytest.raises(BusUnavailable):
        await keyed(at.gateways[1]).waits()
    assert at.requests == []


async def away(*_: Any) -> Any:
    raise StoreUnavailable("Redis: gone")


async def test_the_key_is_remembered_for_its_time_and_no_longer(at):
    async with house(IDEMPOTENCY_TTL_SECONDS="100") as short:
        gateway = await short.gateway()
        for count in (1, 2):
            one = keyed(gateway)
            asked = await short.arrived(count)
            await short.begin(asked)
            await short.complete(asked)
            await one.reply()
            await asyncio.sleep(90)
            assert await keyed(gateway).reply() == WHOLE
            await asyncio.sleep(101)
        assert len(short.requests) == 2


async def test_using_a_key_does_not_lengthen_its_time():
    async with house(IDEMPOTENCY_TTL_SECONDS="100") as short:
        gateway = await short.gateway()
        first = keyed(gateway)
        await short.begin(await short.arrived(1))
        await asyncio.sleep(40)
        joined = keyed(gateway)
        await joined.waits()
        await short.complete(short.requests[0])
        assert await first.reply() == await joined.reply() == WHOLE
        await asyncio.sleep(50)
        assert await keyed(gateway).reply() == WHOLE
        await asyncio.sleep(15)
        keyed(gateway)
        assert (await short.arrived(2)).id != short.requests[0].id


async def test_a_request_that_is_run_anew_gives_its_key_a_time_of_its_own():
    async with house(IDEMPOTENCY_TTL_SECONDS="100") as short:
        gateway = await short.gateway()
        one = keyed(gateway)
        await short.fail(await short.arrived(1), UpstreamUnreachable("gone"))
        await one.reply()
        await asyncio.sleep(90)
        two = keyed(gateway)
        asked = await short.arrived(2)
        await short.begin(asked)
        await short.complete(asked)
        assert await two.reply() == WHOLE
        await asyncio.sleep(90)
        assert await keyed(gateway).reply() == WHOLE
        assert len(short.requests) == 2


async def test_what_the_store_holds_of_a_key_does_not_grow_with_its_use(at):
    one = keyed(at.gateways[0])
    asked = await at.arrived(1)
    await at.begin(asked)
    crowd = [keyed(at.gateways[number % 2]) for number in range(20)]
    for other in crowd:
        await other.waits()
    await at.complete(asked)
    for other in (one, *crowd):
        await other.reply()
    for number in range(20):
        await keyed(at.gateways[number % 2]).reply()
    (name,) = set(at.store.names)
    entry = IdempotencyEntry.decode(await at.store.get(name) or b"")
    assert (entry.public_id, len(entry.readers)) == ((await one.waits()).public_id, 0)


def test_an_entry_is_read_as_it_was_written():
    entry = (
        IdempotencyEntry.from_ticket(Ticket(new_id(), 3, 400), "digest")
        .with_reader("a", "req_x")
        .with_reader("b", "req_x")
        .without_reader("a")
    )
    assert IdempotencyEntry.decode(entry.encode()) == entry
    assert (entry.readers, entry.left) == (("b",), "a")
    assert entry.make_ticket(maybe_duplicate=True) == Ticket(entry.id, 3, 400, True)


def test_members_of_a_later_version_in_an_entry_are_ignored():
    entry = IdempotencyEntry.from_ticket(Ticket(new_id(), 3, 400), "digest").with_reader(
        "a", "req_x"
    )
    assert (
        IdempotencyEntry.decode(orjson.dumps({**orjson.loads(entry.encode()), "later": [1]}))
        == entry
    )
