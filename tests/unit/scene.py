"""What many unit tests set up: a memory bus with our topics, requests, replies as they lie in the
log.
"""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from app.bus.base import Place, Record
from app.bus.memory.bus import MemoryBus
from app.bus.topic_configs import request_spec, shared_specs
from app.config.settings import Settings, load_settings
from app.errors import BusFull, NotDelivered
from app.openai_api.bodies import CHAT
from app.openai_api.sse import extract_event_data, has_data, split_events
from app.protocol.records import Headers, ReplyRecord, RequestRecord
from app.protocol.reply_batch import decode_replies, record_ids
from app.protocol.request_id import new_id
from app.protocol.topics import Topics, request_topic
from app.reply_log.record_scanner import read_stretch

MODEL = "m"
TOPICS = Topics.with_prefix("llm")
REQUESTS = request_topic("llm", MODEL)
OK, LOST, LATE, FULL, HELD = "ok", "lost", "late", "full", "held"


def settings(**environment: str) -> Settings:
    """Few partitions, so that a test knows where things lie."""
    return load_settings(
        {"KAFKA_REQUEST_PARTITIONS": "2", "KAFKA_RESPONSE_PARTITIONS": "2", **environment}
    )


class ScriptedBus(MemoryBus):
    """Does with what is sent to `scripted` what its script says, one word a record; without a word
    it is taken at once.

    LOST: not in the log, and said so. LATE: in the log, and yet said to be lost. FULL: refused.
    HELD: in the log, acknowledged by `release`. `error` is what a lost one comes to.
    """

    error: type[NotDelivered] = NotDelivered

    def __init__(self, **environment: str) -> None:
        super().__init__(settings(**environment).bus)
        self.scripted = TOPICS.replies
        self.script: deque[str] = deque()
        self.held: deque[tuple[Future[Place], Place]] = deque()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        headers: Headers,
        partition: int | None = None,
    ) -> "Future[Place]":
        fate = self.script.popleft() if self.script and topic == self.scripted else OK
        if fate == FULL:
            raise BusFull("as scripted")
        future: Future[Place] = asyncio.get_running_loop().create_future()
        if fate != LOST:
            sent = super().send(topic, value, key=key, headers=headers, partition=partition)
            if fate == OK:
                return sent
            if fate == HELD:
                self.held.append((future, sent.result()))
                return future
        future.set_exception(self.error("as scripted"))
        return future

    def release(self) -> None:
        """Acknowledges the oldest record that is held."""
        future, place = self.held.popleft()
        future.set_result(place)


async def started_bus(**environment: str) -> ScriptedBus:
    bus = ScriptedBus(**environment)
    await bus.start()
    ours = settings(**environment).bus
    await bus.ensure_topics([*shared_specs(ours, TOPICS), request_spec(ours, REQUESTS)])
    return bus


def body(*, path: str = CHAT, **members: Any) -> bytes:
    said = (
        {"messages": [{"role": "user", "content": "count"}]}
        if path == CHAT
        else {"prompt": "count"}
    )
    return orjson.dumps({"model": MODEL, **said, **members})


def request(*, now: float = 0.0, seconds: float = 60.0, **members: Any) -> RequestRecord:
    """A streamed chat, unless told otherwise; `now` in seconds since the epoch, its deadline
    `seconds` later.
    """
    stream, path = members.pop("stream", True), members.pop("path", CHAT)
    defaults = {
        "id": new_id(),
        "model": MODEL,
        "path": path,
        "body": body(path=path, stream=stream),
        "stream": stream,
        "reply_partition": 0,
        "reply_offset": 0,
        "created": int(now * 1000),
        "deadline": int((now + seconds) * 1000),
    }
    return RequestRecord(**{**defaults, **members})


async def send_request(bus: MemoryBus, asked: RequestRecord, partition: int = 0) -> Place:
    return await bus.send(
        REQUESTS,
        asked.body,
        key=asked.id.encode(),
        headers=asked.encode_headers(),
        partition=partition,
    )


async def send_reply(bus: MemoryBus, reply: ReplyRecord, partition: int = 0) -> Place:
    """A record as another process would write it."""
    return await bus.send(
        TOPICS.replies,
        reply.value,
        key=reply.id.encode(),
        headers=reply.encode_headers(),
        partition=partition,
    )


async def log_of(bus: MemoryBus, topic: str, partition: int = 0) -> list[Record]:
    records: list[Record] = []
    await read_stretch(bus, topic, partition, 0, None, records.extend)
    return records


async def replies(bus: MemoryBus, partition: int = 0) -> list[ReplyRecord]:
    """Every reply record of the partition, whether or not it counts."""
    records = await log_of(bus, TOPICS.replies, partition)
    return [
        reply
        for one in records
        for reply in decode_replies(one.headers, one.value, set(record_ids(one.headers)))
    ]


def datas(block: bytes) -> list[bytes]:
    """The data of each event that counts."""
    return [extract_event_data(event) for event in split_events(block) if has_data(event)]


def chunks(block: bytes) -> list[Any]:
    """The JSON of each event; [DONE] is left out."""
    return [orjson.loads(data) for data in datas(block) if data != b"[DONE]"]


def text_of(block: bytes) -> str:
    """The text that a client reads out of a stream of chat or text completion chunks."""
    choices = [choice for chunk in chunks(block) for choice in chunk.get("choices", ())]
    return "".join(
        choice.get("text") or (choice.get("delta") or {}).get("content") or "" for choice in choices
    )


async def turns(count: int = 10) -> None:
    """Lets what is due run, and what that makes due; the clock stands still."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any], seconds: float = 300.0) -> None:
    """Waits, by the loop's clock, for what must come."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "what the test waits for did not come"
        await asyncio.sleep(0.01)
