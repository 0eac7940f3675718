"""Of what is refused again and again so many access lines a second, so that a client with a bad key
does not fill a disk.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

_SECONDS = 1.0
_LINES = 10  # of a kind, in that time
_MOST_KINDS = 1000  # in that time; those beyond count as one


class Kind(NamedTuple):
    """What was refused alike: its code, and the client's address. Both empty: of many kinds."""

    code: str
    client: str


class RefusalThrottle:
    """Begins anew each second; `over` is then told how many lines of a kind were left out."""

    def __init__(self, over: Callable[[Kind, int], None]) -> None:
        self._over = over
        self._seen: Counter[Kind] = Counter()

    def admits(self, kind: Kind) -> bool:
        """Whether a line of that kind is to be written."""
        if not self._seen:
            asyncio.get_running_loop().call_later(_SECONDS, self.end)
        if kind not in self._seen and len(self._seen) >= _MOST_KINDS:
            kind = Kind("", "")
        self._seen[kind] += 1
        return self._seen[kind] <= _LINES

    def end(self) -> None:
        """Of this second; also to be called at the end."""
        seen, self._seen = self._seen, Counter()
        for kind, count in seen.items():
            if count > _LINES:
                self._over(kind, count - _LINES)
