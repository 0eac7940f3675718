"""Whether a worker's upstream answers, from a call that found nobody there until its check is empty
again.
"""

import asyncio
import logging
from asyncio import Task
from collections.abc import Callable

from app.agent.engines.base import Engine

logger = logging.getLogger("app.agent")

_SECONDS = 1.0  # between two checks


class UpstreamWatch:
    """`changed` hears that `reason` came or went. The worker goes on: where it is the only one,
    each caller gets its error.
    """

    def __init__(self, engine: Engine, model: str, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._model = model
        self._changed = changed
        self._task: Task[None] | None = None
        self.reason = ""  # why the upstream answers nobody; empty when it does, as far as is known

    def unreachable(self) -> None:
        """A call found nobody there, after all its retries. However many do, there is one check at
        a time, one a second.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
            self._task.add_done_callback(self._ended)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while missing := await self._engine.check():
            before, self.reason = self.reason, f"its upstream is out of reach: {missing}"
            if not before:
                logger.warning("model %s: not ready: %s", self._model, self.reason)
                self._changed()
            await asyncio.sleep(_SECONDS)
        if self.reason:
            self._is_back()
        await asyncio.sleep(_SECONDS)  # what fails until then is of the same trouble

    def _is_back(self) -> None:
        self.reason = ""
        logger.info("model %s: ready again: its upstream answers", self._model)
        self._changed()

    def _ended(self, task: "Task[None]") -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.reason = ""  # nobody would take it back
            logger.error("model %s: its upstream could not be checked", self._model, exc_info=error)
