"""The models that are known: what the compacted models' topic holds."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from app.bus.base import Bus, Record
from app.config.settings import Settings
from app.errors import UndecodableRecord
from app.protocol.heartbeats import (
    ModelRegistration,
    WorkerHeartbeat,
    decode_heartbeat,
    decode_registration,
)
from app.protocol.topics import Topics
from app.reply_log.record_scanner import read_stretch
from app.telemetry.printable import escape_unprintable


async def known_cards(bus: Bus, topics: Topics) -> dict[bytes, ModelRegistration]:
    """Return the cards by their keys, which are the models' names."""
    cards: dict[bytes, ModelRegistration] = {}
    if not await bus.partitions(topics.models):
        print(f"there is no topic {topics.models}: no worker has been started here yet")
        return cards

    def on_records(records: Sequence[Record]) -> None:
        for record in records:
            cards.pop(record.key or b"", None)
            if record.value is not None:
                try:
                    cards[record.key or b""] = decode_registration(record.value)
                except UndecodableRecord as error:
                    print(
                        escape_unprintable(
                            f"undecodable model card at offset {record.offset}: {error}"
                        ),
                        file=sys.stderr,
                    )

    await read_stretch(bus, topics.models, 0, 0, None, on_records)
    return cards


async def show(
    bus: Bus, topics: Topics, _settings: Settings, _arguments: argparse.Namespace
) -> int:
    for card in (await known_cards(bus, topics)).values():
        aliases = f" aliases={','.join(card.aliases)}" if card.aliases else ""
        print(escape_unprintable(f"{card.model} topic={card.topic} group={card.group}{aliases}"))
    return 0


async def _workers(bus: Bus, topics: Topics, model: str) -> list[WorkerHeartbeat]:
    """Those that live, by their last heartbeat."""
    last: dict[str, tuple[WorkerHeartbeat, float]] = {}

    def on_records(records: Sequence[Record]) -> None:
        for record in records:
            with suppress(UndecodableRecord):
                beat = decode_heartbeat(record.value or b"")
                if isinstance(beat, WorkerHeartbeat) and beat.model == model:
                    last[beat.worker] = (beat, record.timestamp / 1000)

    await read_stretch(bus, topics.workers, 0, 0, None, on_records)
    now = time.time()
    return [
        beat
        for beat, heard in last.values()
        if not beat.gone and now - heard < beat.heartbeat_timeout_seconds
    ]


async def forget(
    bus: Bus, topics: Topics, _settings: Settings, arguments: argparse.Namespace
) -> int:
    """A tombstone for its card, which a worker writes only when it starts. Its topic and what waits
    there are left alone.
    """
    if arguments.model.encode() not in await known_cards(bus, topics):
        print(f"{arguments.model} is not known")
        return 1
    workers = await _workers(bus, topics, arguments.model)
    if workers and not arguments.force:
        hosts = escape_unprintable(", ".join(sorted({beat.host for beat in workers})))
        print(
            f"{arguments.model} has {len(workers)} at work ({hosts}): stop them first; with "
            f"--force it is 404 from now on"
        )
        return 1
    await bus.send(topics.models, None, key=arguments.model.encode(), headers=[("v", b"1")])
    print(f"{arguments.model} is forgotten")
    return 0
