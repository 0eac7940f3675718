"""`python -m app.agent`: the worker of one model (or of each model in MODELS_FILE), on Kafka."""

import asyncio
import logging
import os
import signal
import sys

import uvloop

from app import settings as app_settings
from app.agent.fleet import Fleet
from app.bus.kafka import KafkaBus
from app.catalog import for_worker
from app.errors import SettingsError
from app.settings import Settings
from app.telemetry import logs

logger = logging.getLogger("app.agent")


async def serve(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT, then drains; a second signal ends the process at once."""
    bus = KafkaBus(settings.bus)
    fleet = Fleet(bus, settings, for_worker(settings))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stopped)
    starting = asyncio.create_task(_start(bus, fleet))
    await stopped.wait()
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await fleet.drain()
    await bus.close()


async def _start(bus: KafkaBus, fleet: Fleet) -> None:
    await bus.start()
    fleet.start()


def _on_signal(stopped: asyncio.Event) -> None:
    if stopped.is_set():
        os._exit(1)
    logger.info("draining; a second signal ends at once")
    stopped.set()


def main() -> int:
    """Exit status 2, with one line that names the variable, when a setting is missing or does not work."""
    try:
        settings = app_settings.load()
        if not settings.bus.servers:
            raise SettingsError("BOOTSTRAP_SERVERS: is not set; for example BOOTSTRAP_SERVERS=localhost:9093")
        for_worker(settings)
    except SettingsError as error:
        print(f"llm-gateway worker: {error}", file=sys.stderr)
        return 2
    logs.set_up(settings.logs)
    uvloop.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
