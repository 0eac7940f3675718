"""What a deployment says of itself, and whether a secret or a text of a client's is in it."""

import asyncio
import base64
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.acceptance.stack import Stack

_SHOWN = 12  # characters of a secret's beginning that nobody may show either
_SHORTEST_ENCODED = 12  # characters; of less, base64 could be anything
_AROUND = 60  # bytes shown beside what was found


@dataclass
class Secrets:
    """Texts that must not come out, by what they are. `new` makes one that nothing else in the
    world has in it.
    """

    known: dict[str, str] = field(default_factory=dict)

    def new(self, name: str, beginning: str = "") -> str:
        return self.add(name, beginning + secrets.token_hex(24))

    def add(self, name: str, text: str) -> str:
        self.known[name] = text
        return text

    def found_in(self, where: str, said: bytes) -> list[str]:
        """A line for each secret that is in there, whole, by its beginning or in base64."""
        places = (
            (name, said.find(shape))
            for name, text in self.known.items()
            for shape in shapes(text.encode())
        )
        found = {name: said[max(0, at - _AROUND) : at + _AROUND] for name, at in places if at >= 0}
        return [f"{name} in {where}: {shown!r}" for name, shown in found.items()]


def shapes(secret: bytes) -> Iterator[bytes]:
    """How it could be written down."""
    yield secret[:_SHOWN]  # and so all of it
    if len(secret) >= _SHORTEST_ENCODED:
        for before in range(3):  # base64 looks another way behind each number of bytes
            first = (before * 8 + 5) // 6  # characters that hold bits of what stands before
            whole = (before + len(secret)) * 8 // 6  # up to here nothing of what stands behind
            yield base64.b64encode(bytes(before) + secret)[first:whole]


@dataclass
class Said:
    """Everything that was said, by where."""

    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, where: str, said: bytes | str) -> None:
        assert said, f"{where} says nothing"
        self.texts.append((where, said.encode() if isinstance(said, str) else said))

    def add_logs(self, stack: Stack) -> None:
        for path in sorted(stack.directory.glob("*.log")):
            if not path.name.startswith("upstream"):  # says nothing, and is not ours
                self.add(path.name, path.read_bytes())

    def add_records(self, records: list[Message], *, values: bool) -> None:
        for record in records:
            place = f"{record.topic()}[{record.partition()}]@{record.offset()}"
            heads = record.headers() or []
            self.texts.append((f"key of {place}", record.key() or b""))
            self.texts += [
                (f"header {name} of {place}", name.encode() + b" " + bytes(value or b""))
                for name, value in heads
            ]
            if values:
                self.texts.append((f"value of {place}", record.value() or b""))

    def leaks(self, secrets: Secrets) -> list[str]:
        return [line for where, said in self.texts for line in secrets.found_in(where, said)]


async def records_of(servers: str, prefix: str) -> Mapping[str, list[Message]]:
    """All that lies in the topics whose names begin so, by topic."""
    return await asyncio.to_thread(_records_of, servers, prefix)


def _records_of(servers: str, prefix: str) -> Mapping[str, list[Message]]:
    topics = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).topics
    found: dict[str, list[Message]] = {name: [] for name in topics if name.startswith(prefix)}
    places = [
        TopicPartition(name, each, OFFSET_BEGINNING)
        for name in found
        for each in topics[name].partitions
    ]
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "unused", "enable.partition.eof": True}
    )
    consumer.assign(places)
    ends = set()
    while len(ends) < len(places):
        for message in consumer.consume(1000, 1.0):
            if message.error() is None:
                found[message.topic() or ""].append(message)
            else:
                ends.add((message.topic(), message.partition()))
    consumer.close()
    return found
