"""Records that nobody can work on go to the dead letters, their callers get an error, and their partitions go on."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from tests.acceptance.asking import chat
from tests.acceptance.processes import until
from tests.acceptance.reading import Clients, check_whole, check_whole_body, ends
from tests.acceptance.services import Upstream, Worker
from tests.acceptance.stack import SERVERS, Stack

pytestmark = pytest.mark.servers

PARTITIONS = 8


class DeadLetters:
    """What lies in a deployment's dead-letter topic."""

    def __init__(self, stack: Stack) -> None:
        self._consumer = Consumer({"bootstrap.servers": SERVERS, "group.id": "unused", "fetch.wait.max.ms": 20})
        self._consumer.assign([TopicPartition(f"{stack.prefix}.dlq", 0, OFFSET_BEGINNING)])
        self._found: list[Message] = []

    async def read(self) -> list[Message]:
        messages = await asyncio.to_thread(self._consumer.consume, 100, 0.1)
        self._found += [message for message in messages if message.error() is None]
        return self._found

    async def come(self, count: int) -> list[Message]:
        async def there() -> bool:
            return len(await self.read()) >= count

        await until(there, f"{count} dead letters")
        return self._found

    def close(self) -> None:
        self._consumer.close()


def headers_of(message: Message) -> dict[str, bytes]:
    return {name: bytes(value or b"") for name, value in message.headers() or []}


@pytest.fixture
async def dead_letters(stack: Stack) -> AsyncIterator[DeadLetters]:
    reader = DeadLetters(stack)
    yield reader
    reader.close()


async def test_a_record_that_cannot_be_decoded_is_put_aside(stack: Stack, dead_letters: DeadLetters) -> None:
    upstream = await stack.upstream()
    worker = await stack.worker("sim", upstream)
    gateway = await stack.gateway()
    topic = (await worker.beat()).topic
    producer = Producer({"bootstrap.servers": SERVERS})
    junk = b"\xff\x00 not ours"
    for partition in range(PARTITIONS):
        producer.produce(topic, junk, b"key", partition, headers=[("v", b"1"), ("id", b"\xff"), ("other", b"kept")])
    assert producer.flush(10) == 0
    found = await dead_letters.come(PARTITIONS)
    assert sorted(headers_of(one)["dlq-origin"] for one in found) == [f"{topic}/{p}/0".encode() for p in range(PARTITIONS)]
    assert {(one.value(), headers_of(one)["other"]) for one in found} == {(junk, b"kept")}
    assert all(b"UTF-8" in headers_of(one)["dlq-reason"] for one in found)
    async with Clients() as clients:
        for told in await ends([clients.post(gateway, chat(max_tokens=3)) for _ in range(2 * PARTITIONS)]):
            check_whole_body(told, 3)


async def die(worker: Worker, upstream: Upstream, runs: str) -> None:
    """Kills the worker once it runs that request, and says so."""
    tries = (await upstream.stats()).tries.get(runs, 0)
    await until(lambda: tried(upstream, runs, tries + 1), "the request to run")
    worker.kill()


async def tried(upstream: Upstream, id_: str, count: int) -> bool:
    return (await upstream.stats()).tries.get(id_, 0) >= count


@pytest.mark.parametrize("stream", [False, True])
async def test_what_ends_every_worker_is_put_aside(stack: Stack, dead_letters: DeadLetters, stream: bool) -> None:
    """Whoever runs it is killed; the others that it ran beside complete, and are not put aside."""
