"""What each of our processes asks of its interpreter."""

import gc

# Requests are freed by their reference counts; what the collector looks for is rare. With the default of 700 it took 15 % of a
# worker's time under 1,000 streams, and its longest pauses were seen in the gaps between tokens.
_YOUNG, _MIDDLE, _OLD = 50_000, 20, 20


def tune_collector() -> None:
    """To be called once everything is imported: what is there now stays, so it is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
