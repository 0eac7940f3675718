"""What each of our processes asks of its interpreter."""

import asyncio
import gc
import logging
import multiprocessing
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("app.process")

# Requests are freed by their reference counts; what the collector looks for is rare. With the
# default of 700 it took 15 % of a worker's time under 1,000 streams, and its longest pauses were
# seen in the gaps between tokens.
_YOUNG_THRESHOLD, _MIDDLE_THRESHOLD, _OLD_THRESHOLD = 50_000, 20, 20


def tune_garbage_collector() -> None:
    """To be called once everything is imported: what is there now stays, so it is never looked at
    again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_THRESHOLD, _MIDDLE_THRESHOLD, _OLD_THRESHOLD)


def is_uvicorn_worker() -> bool:
    """One of the processes of `uvicorn --workers`. (`--reload` has a parent too, and one child.)"""
    return multiprocessing.parent_process() is not None and "--reload" not in sys.argv


@contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """For what makes many objects at once and keeps them all: the collector would look at each of
    them several times in vain.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def start_in_background_or_exit(start: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Runs the start in the background. An unexpected exception is logged and exits the process
    with status 1, so that it is started again: it would live on and never serve. It has taken
    nothing yet, so there is nothing to finish.
    """
    task = asyncio.create_task(start)
    task.add_done_callback(_exit_on_failure)
    return task


def _exit_on_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the start failed, so this process ends: %r", error, exc_info=error)
        os._exit(1)
