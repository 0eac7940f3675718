"""Of what is refused again and again so many access lines a second, so that a client with a bad key
does not fill a disk.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_WINDOW_SECONDS = 1.0
_MAX_LINES_PER_KIND = 10  # of a kind, in that time
_MAX_KINDS = 1000  # in that time; those beyond count as one


class RefusalKind(NamedTuple):
    """What was refused alike: its code, and the client's address. Both empty: of many kinds."""

    code: str
    client: str


class RefusalThrottle:
    """Begins anew each second; `on_suppressed` is then told how many lines of a kind were left
    out.
    """

    def __init__(self, on_suppressed: Callable[[RefusalKind, int], None]) -> None:
        self._on_suppressed = on_suppressed
        self._refusal_counts: Counter[RefusalKind] = Counter()

    def should_log(self, kind: RefusalKind) -> bool:
        """Whether a line of that kind is to be written."""
        if not self._refusal_counts:
            asyncio.get_running_loop().call_later(_WINDOW_SECONDS, self.end_window)
        if kind not in self._refusal_counts and len(self._refusal_counts) >= _MAX_KINDS:
            kind = RefusalKind("", "")
        self._refusal_counts[kind] += 1
        return self._refusal_counts[kind] <= _MAX_LINES_PER_KIND

    def end_window(self) -> None:
        """Of this second; also to be called at the end."""
        refusal_counts, self._refusal_counts = self._refusal_counts, Counter()
        for kind, count in refusal_counts.items():
            if count > _MAX_LINES_PER_KIND:
                self._on_suppressed(kind, count - _MAX_LINES_PER_KIND)
