"""The workers of one process, one per model, started and drained together."""

import asyncio
import logging
from collections.abc import Sequence

from app.agent.engines import make_engine
from app.agent.loopback_hosts import warn_of_loopback_hosts
from app.agent.worker import Worker
from app.bus.base import Bus
from app.config.model_entry import ModelEntry
from app.config.settings import Settings
from app.process import start_in_background_or_exit
from app.telemetry.tracing import Tracer

logger = logging.getLogger("app.agent")


class Fleet:
    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        entries: Sequence[ModelEntry],
        tracer: Tracer | None = None,
    ) -> None:
        self._bus = bus
        self._entries = entries
        self._drain_seconds = settings.worker.drain_seconds
        self._workers = [
            Worker(
                bus,
                settings.bus,
                settings.worker,
                entry,
                make_engine(entry, settings.worker),
                tracer,
            )
            for entry in entries
        ]
        self._starting: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start each worker in the background; it takes requests as soon as its upstream answers.

        An unexpected error ends the process of a single worker; beside others it makes that worker
        unready.
        """
        warn_of_loopback_hosts(self._entries)
        if len(self._workers) == 1:
            self._starting = [
                start_in_background_or_exit(worker.start()) for worker in self._workers
            ]
        else:
            self._starting = [
                asyncio.create_task(_start_beside_others(worker)) for worker in self._workers
            ]

    def unready(self) -> list[str]:
        """Why they do not take requests; empty when all do."""
        log = self._bus.healthy()
        found = [(worker.model, worker.unready()) for worker in self._workers]
        return [
            *([f"bus: {log}"] if log else []),
            *(f"model {model}: {why}" for model, why in found if why),
        ]

    async def drain(self) -> None:
        """Leaves the groups at once and finishes what runs, within DRAIN_SECONDS."""
        self._stop_starting()
        await asyncio.gather(*(worker.drain(self._drain_seconds) for worker in self._workers))

    def _stop_starting(self) -> None:
        for task in self._starting:
            task.cancel()


async def _start_beside_others(worker: Worker) -> None:
    try:
        await worker.start()
    except Exception as error:  # the other models' workers go on
        logger.exception("model %s: the start of its worker failed", worker.model)
        worker.could_not_start(error)
