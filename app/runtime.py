"""What each of our processes asks of its interpreter."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Requests are freed by their reference counts; what the collector looks for is rare. With the default of 700 it took 15 % of a
# worker's time under 1,000 streams, and its longest pauses were seen in the gaps between tokens.
_YOUNG, _MIDDLE, _OLD = 50_000, 20, 20


def tune_collector() -> None:
    """To be called once everything is imported: what is there now stays, so it is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


@contextmanager
def collector_paused() -> Iterator[None]:
    """For what makes many objects at once and keeps them all: the collector would look at each of them several times in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
