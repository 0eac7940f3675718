"""`python -m app.agent`: the worker of one model (or of each model in MODELS_FILE), on Kafka."""

import asyncio
import logging
import os
import signal
import sys

import uvloop

from app.agent.fleet import Fleet
from app.agent.health import health_routes
from app.bus.base import Bus
from app.bus.factory import make_bus
from app.config import settings as app_settings
from app.config.model_entry import ModelEntry
from app.config.models_file import load_worker_models
from app.config.settings import Settings
from app.errors import SettingsError
from app.operator_port import operator_port
from app.process import start_in_background_or_exit, tune_garbage_collector
from app.telemetry import logs
from app.telemetry.tracing import make_tracer

logger = logging.getLogger("app.agent")


async def serve(bus: Bus, settings: Settings, entries: list[ModelEntry]) -> None:
    """Works until SIGTERM or SIGINT, then drains; a second signal ends the process at once."""
    tracer = make_tracer(settings.traces, "llm-worker")
    if tracer is not None:
        tracer.start()
    fleet = Fleet(bus, settings, entries, tracer)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stopped)
    async with operator_port(settings.admin, health_routes(fleet.unready)):
        starting = start_in_background_or_exit(_start(bus, fleet))
        await stopped.wait()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await fleet.drain()
    await bus.close()
    if tracer is not None:
        await tracer.close()


async def _start(bus: Bus, fleet: Fleet) -> None:
    await bus.start()
    fleet.start()


def _on_signal(stopped: asyncio.Event) -> None:
    if stopped.is_set():
        os._exit(1)
    logger.info("draining; a second signal ends at once")
    stopped.set()


def main() -> int:
    """Exit status 2, with one line that names the variable, when a setting is missing or does not
    work.
    """
    try:
        settings = app_settings.load_settings()
        bus, entries = make_bus(settings.bus, shared=True), load_worker_models(settings)
    except SettingsError as error:
        print(f"llm-gateway worker: {error}", file=sys.stderr)
        return 2
    logs.set_up(settings.logs)
    tune_garbage_collector()
    uvloop.run(serve(bus, settings, entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
