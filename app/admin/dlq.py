"""The dead letters: what they are, and sending one again."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from app.admin.models import known_cards
from app.bus.base import Bus, Record
from app.config.settings import Settings
from app.errors import UndecodableRecord
from app.protocol import dead_letters
from app.protocol.records import RequestRecord
from app.protocol.request_id import Address, fingerprint_topic, new_id
from app.protocol.topics import Topics
from app.reply_log.record_scanner import read_stretch
from app.telemetry.printable import escape_unprintable

_SHOWN_BYTES = 16 * 1024  # of a body, and of each header, unless all of it is asked for


async def _letters(bus: Bus, topics: Topics) -> list[Record]:
    found: list[Record] = []
    if not await bus.partitions(topics.dlq):
        print(f"there is no topic {topics.dlq}: no gateway or worker has been started here yet")
        return found

    def on_records(records: Sequence[Record]) -> None:
        found.extend(records)

    await read_stretch(bus, topics.dlq, 0, 0, None, on_records)
    return found


async def _letter(bus: Bus, topics: Topics, offset: int) -> Record | None:
    found = next(
        (record for record in await _letters(bus, topics) if record.offset == offset), None
    )
    if found is None:
        print(f"there is no dead letter {offset}")
    return found


def _line(record: Record) -> str:
    said, own = dead_letters.split_marks(record.headers)
    model = dead_letters.get_original_header(own, "model")
    when = datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(timespec="seconds")
    origin, reason = said.get(dead_letters.ORIGIN_HEADER), said.get(dead_letters.REASON_HEADER)
    cut = (
        f" cut from {said[dead_letters.ORIGINAL_SIZE_HEADER]} bytes"
        if dead_letters.ORIGINAL_SIZE_HEADER in said
        else ""
    )
    return escape_unprintable(
        f"{record.offset} {when} model={model} origin={origin} reason={reason}{cut}"
    )


async def show_all(
    bus: Bus, topics: Topics, _settings: Settings, _arguments: argparse.Namespace
) -> int:
    letters = await _letters(bus, topics)
    for record in letters:
        print(_line(record))
    print(f"{len(letters)} dead letters")
    return 0


async def show_one(
    bus: Bus, topics: Topics, _settings: Settings, arguments: argparse.Namespace
) -> int:
    record = await _letter(bus, topics, arguments.offset)
    if record is None:
        return 1
    print(_line(record))
    for name, value in dead_letters.split_marks(record.headers)[1]:
        print(f"  {escape_unprintable(name)}: {_shown(value, arguments.whole, kept='')}")
    print(_shown(record.value or b"", arguments.whole, kept="\n\t"))
    return 0


def _shown(value: bytes, whole: bool, *, kept: str) -> str:
    """A client's bytes, for a terminal: their beginning, unless the `whole` is wanted."""
    begin = value if whole else value[:_SHOWN_BYTES]
    text = escape_unprintable(begin.decode(errors="backslashreplace"), keep=kept)
    return (
        text
        if len(begin) == len(value)
        else f"{text}\n({len(begin)} of {len(value)} bytes; --whole shows all)"
    )


async def replay(
    bus: Bus, topics: Topics, settings: Settings, arguments: argparse.Namespace
) -> int:
    """Send a new request with the old one's body, for the same tenant: the old one has had its
    outcome.

    One that is not in our format goes back to its topic as it was. Anyone who can write to the dead
    letters can name a topic in their headers, so nothing is sent but to the topic of a known model.
    """
    record = await _letter(bus, topics, arguments.offset)
    if record is None:
        return 1
    said, own = dead_letters.split_marks(record.headers)
    if dead_letters.ORIGINAL_SIZE_HEADER in said:
        print(
            f"dead letter {arguments.offset} was cut, as it was too large for its topic: "
            f"there is nothing whole to send again"
        )
        return 1
    topic = said.get(dead_letters.ORIGIN_HEADER, "").split("/")[0]
    if topic not in {card.topic for card in (await known_cards(bus, topics)).values()}:
        print(
            f"{escape_unprintable(topic) or 'its origin'} is no topic of a known model "
            f"(models list), so "
            f"nothing is sent there"
        )
        return 1
    try:
        request = RequestRecord.decode(own, record.value)
    except UndecodableRecord:
        place = await bus.send(topic, record.value, key=record.key or b"", headers=own)
        print(f"sent again as it was: {topic}[{place.partition}]@{place.offset}")
        return 0
    now = int(time.time() * 1000)
    new = replace(
        request,
        id=new_id(),
        reply_offset=(await bus.ends(topics.replies))[request.reply_partition],
        created=now,
        deadline=now + int(settings.bus.request_timeout_seconds * 1000),
        maybe_duplicate=False,
    )
    place = await bus.send(topic, new.body, key=new.id.encode(), headers=new.encode_headers())
    address = Address(
        new.id,
        fingerprint_topic(topic),
        place.partition,
        place.offset,
        new.reply_partition,
        new.reply_offset,
    )
    print(address.encode())
    return 0
