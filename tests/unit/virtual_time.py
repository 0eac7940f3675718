"""An event loop whose clock jumps: what a test waits for happens at once, in the order in which it
would have happened.
"""

import asyncio
import selectors
import time
from typing import Any

_BEGIN = 1_800_000_000.0  # the wall clock when a loop is made, seconds since the epoch
_THREAD_SECONDS = 60.0  # real ones, for what another thread still does


class _Selector(selectors.DefaultSelector):
    """Does not wait for a timer: it says how far the clock may jump. While a thread has a job of
    ours it does not jump.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.jobs = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or (timeout > 0 and self.jobs):
            found = super().select(_THREAD_SECONDS)
            if not found:
                raise RuntimeError("the test waits for something that nobody will ever do")
            return found
        found = super().select(0)
        if not found:
            self.passed += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """While it runs, `time.time` and `time.monotonic` are its clock too."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.passed

    def jump(self, seconds: float) -> None:
        self._clock.passed += seconds

    def run_in_executor(self, *arguments: Any) -> Any:
        self._clock.jobs += 1
        job = super().run_in_executor(*arguments)
        job.add_done_callback(self._job_ended)
        return job

    def _job_ended(self, _: object) -> None:
        self._clock.jobs -= 1

    def run_forever(self) -> None:
        real = time.time, time.monotonic
        time.time, time.monotonic = lambda: _BEGIN + self.time(), self.time
        try:
            super().run_forever()
        finally:
            time.time, time.monotonic = real


def stand_still(seconds: float) -> None:
    """As a process that is stopped meanwhile: the time is over at once, and nothing has run in
    it.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump(seconds)
