"""`python -m app.admin`: keys new|list|revoke, models list|forget, dlq list|show|replay.

Prints to stdout; exit status 1 when a thing is not there, 2 when it cannot be done as it was told.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from app.admin import dlq, keys, models
from app.bus.base import Bus
from app.bus.factory import make_bus
from app.config import settings as app_settings
from app.config.settings import Settings
from app.errors import BusError, SettingsError
from app.protocol.topics import Topics
from app.telemetry import logs

_PATIENCE = 10.0  # seconds for a broker to answer

Command: TypeAlias = Callable[[Bus, Topics, Settings, argparse.Namespace], Awaitable[int]]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m app.admin",
        description="The operator's commands, on API_KEYS_FILE and BOOTSTRAP_SERVERS.",
    )
    rooms = top.add_subparsers(required=True, metavar="keys|models|dlq")
    keys.add_commands(rooms)
    of_models = rooms.add_parser("models", help="the models that are known").add_subparsers(
        required=True, metavar="list|forget"
    )
    _add(
        of_models.add_parser("list", help="every known model with its topic and group"), models.show
    )
    forget = _add(
        of_models.add_parser(
            "forget", help="no longer list a model; it comes back with its next worker"
        ),
        models.forget,
    )
    forget.add_argument("model")
    forget.add_argument("--force", action="store_true", help="though workers serve it")
    of_dlq = rooms.add_parser("dlq", help="the dead letters").add_subparsers(
        required=True, metavar="list|show|replay"
    )
    _add(of_dlq.add_parser("list", help="every dead letter, a line each"), dlq.show_all)
    one = _add(
        of_dlq.add_parser("show", help="one dead letter: it may hold a prompt"), dlq.show_one
    )
    one.add_argument("offset", type=int)
    one.add_argument("--whole", action="store_true", help="all of it, however large")
    again = _add(
        of_dlq.add_parser(
            "replay", help="send one again, as a new request; prints the id to look it up by"
        ),
        dlq.replay,
    )
    again.add_argument("offset", type=int)
    return top


def _add(one: argparse.ArgumentParser, command: Command) -> argparse.ArgumentParser:
    one.set_defaults(command=command)
    return one


async def run(bus: Bus, settings: Settings, arguments: argparse.Namespace) -> int:
    try:
        async with asyncio.timeout(_PATIENCE):
            await bus.start()
        topics = Topics.with_prefix(settings.bus.prefix, settings.bus.reply_topic)
        status: int = await arguments.command(bus, topics, settings, arguments)
        return status
    except (BusError, TimeoutError) as error:
        print(f"the log: {str(error) or bus.healthy() or 'no answer'}", file=sys.stderr)
        return 1
    finally:
        await bus.close()


def main() -> int:
    """The command's exit status; 1 as well if who reads what it prints has left, as `head` does."""
    try:
        status = _obey(parser().parse_args())
        sys.stdout.flush()
    except BrokenPipeError:
        # what is still to be written at the end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _obey(arguments: argparse.Namespace) -> int:
    try:
        settings = app_settings.load_settings()
        if "offline" in arguments:
            status: int = arguments.offline(settings, arguments)
            return status
        bus = make_bus(settings.bus, shared=True)
    except SettingsError as error:
        print(f"llm-gateway admin: {error}", file=sys.stderr)
        return 2
    logs.set_up(settings.logs, min_level="WARNING")
    return asyncio.run(run(bus, settings, arguments))


if __name__ == "__main__":
    sys.exit(main())
