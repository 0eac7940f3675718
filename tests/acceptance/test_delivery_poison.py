"""Records that nobody can work on go to the dead letters, their callers get an error, and their
partitions go on.
"""

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from app.agent.consume.takeover import POISON_DEATHS, SUSPECT_DEATHS
from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, check_whole, check_whole_body, ends
from tests.acceptance.services import Upstream, Worker
from tests.acceptance.stack import SERVERS, Stack

pytestmark = pytest.mark.servers

PARTITIONS = 8


class DeadLetters:
    """What lies in a deployment's dead-letter topic, by origin: a record that a worker could not
    commit is put aside again.
    """

    def __init__(self, stack: Stack) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": SERVERS, "group.id": "unused", "fetch.wait.max.ms": 20}
        )
        self._consumer.assign([TopicPartition(f"{stack.prefix}.dlq", 0, OFFSET_BEGINNING)])
        self.found: dict[bytes, Message] = {}

    async def read(self) -> dict[bytes, Message]:
        messages = await asyncio.to_thread(self._consumer.consume, 100, 0.1)
        self.found |= {
            headers_of(message)["dlq-origin"]: message
            for message in messages
            if message.error() is None
        }
        return self.found

    async def come(self, count: int) -> dict[bytes, Message]:
        async def there() -> bool:
            return len(await self.read()) >= count

        await until(there, f"{count} dead letters")
        return self.found

    def close(self) -> None:
        self._consumer.close()


def headers_of(message: Message) -> dict[str, bytes]:
    return {name: bytes(value or b"") for name, value in message.headers() or []}


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """With heartbeats that tell soon what runs."""
    async with Stack("poison", HEARTBEAT_SECONDS="0.3") as stack:
        yield stack


@pytest.fixture
async def dead_letters(stack: Stack) -> AsyncIterator[DeadLetters]:
    reader = DeadLetters(stack)
    yield reader
    reader.close()


async def test_a_record_that_cannot_be_decoded_is_put_aside(
    stack: Stack, dead_letters: DeadLetters
) -> None:
    upstream = await stack.upstream()
    worker = await stack.worker("sim", upstream)
    gateway = await stack.gateway()
    topic = (await worker.beat()).topic
    producer = Producer({"bootstrap.servers": SERVERS})
    junk = b"\xff\x00 not ours"
    for partition in range(PARTITIONS):
        producer.produce(
            topic,
            junk,
            b"key",
            partition,
            headers=[("v", b"1"), ("id", b"\xff"), ("other", b"kept")],
        )
    assert producer.flush(10) == 0
    found = await dead_letters.come(PARTITIONS)
    assert set(found) == {f"{topic}/{partition}/0".encode() for partition in range(PARTITIONS)}
    assert {(one.value(), headers_of(one)["other"]) for one in found.values()} == {(junk, b"kept")}
    assert all(b"UTF-8" in headers_of(one)["dlq-reason"] for one in found.values())
    async with Clients() as clients:
        for told in await ends(
            [clients.post(gateway, chat(max_tokens=3)) for _ in range(2 * PARTITIONS)]
        ):
            check_whole_body(told, 3)


async def test_what_ends_one_worker_after_another_is_put_aside(
    stack: Stack, dead_letters: DeadLetters
) -> None:
    """Whoever runs it is killed. The others that run beside it complete in the end, and are not put
    aside.
    """
    upstream = await stack.upstream()
    worker = await stack.worker("sim", upstream)
    gateway = await stack.gateway()
    async with Clients() as clients:
        poison, key = chat(x_ttft=60), "poison"
        waiting = clients.post(gateway, poison, idempotency_key=key)
        await until(lambda: upstream.has(active=1), "it to run")
        told = await clients.post(
            gateway, poison, idempotency_key=key, prefer="respond-async"
        ).end()
        innocent = [
            clients.post(gateway, chat(max_tokens=3, x_ttft=60, stream=bool(number % 2)))
            for number in range(4)
        ]
        await until(lambda: runs(worker, 5), "all to run and the worker to say so")
        beside: list[int] = []  # how many ran with it when it ended a worker
        while await runs_again(upstream, worker, told.id, len(beside), dead_letters):
            beside.append(len((await worker.beat()).running) - 1)
            worker.kill()
            worker = await stack.worker("sim", upstream)
        await upstream.hurry()
        (letter,) = dead_letters.found.values()
        result = await clients.get(gateway, f"/v1/requests/{told.public_id}/result").end()
        answer = await waiting.end()
        for number, one in enumerate(await ends(innocent)):
            check_whole(one, 3) if number % 2 else check_whole_body(one, 3)
        check_whole_body(await clients.post(gateway, chat(max_tokens=3)).end(), 3)
    assert len(beside) == POISON_DEATHS
    assert beside[-1] == 0, "a suspect runs alone"
    assert (orjson.loads(letter.value() or b""), headers_of(letter)["id"]) == (
        poison,
        told.id.encode(),
    )
    assert b"died" in headers_of(letter)["dlq-reason"]
    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (
        500,
        "dead_lettered",
        "false",
    )
    assert (result.status, result.body) == (answer.status, answer.body)
    assert len(await dead_letters.read()) == 1


async def runs(worker: Worker, count: int) -> bool:
    return len((await worker.beat()).running) == count


async def runs_again(
    upstream: Upstream, worker: Worker, id_: str, before: int, dead_letters: DeadLetters
) -> bool:
    """True when the worker runs the request and has said so, False when that lies in the dead
    letters.
    """

    async def again() -> bool:
        stats = await upstream.stats()
        if stats.tries[id_] > before:
            return id_ in (await worker.beat()).running
        if before >= SUSPECT_DEATHS and stats.active:
            await upstream.release()  # a suspect waits until nothing else runs
        return False

    async def settled() -> bool:
        return await again() or bool(await dead_letters.read())

    await until(settled, "the request to run or to be put aside")
    return not dead_letters.found
