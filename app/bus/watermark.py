"""The watermark: how far a partition may be committed when its records end in any order. Pure."""

from collections import deque


class Watermark:
    """Offsets of one partition in work. `position` is the first one that is not done: all below may
    be committed.
    """

    __slots__ = ("_done", "_open", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._open: deque[int] = deque()  # taken, in order, the first of them not done
        self._done: set[int] = set()

    def take(self, offset: int) -> None:
        """Offsets come in rising order; gaps are those of the log itself."""
        self._open.append(offset)

    def done(self, offset: int) -> int:
        """Marks one as done and gives back the position."""
        self._done.add(offset)
        while self._open and self._open[0] in self._done:
            self.position = self._open.popleft() + 1
            self._done.discard(self.position - 1)
        return self.position

    def open(self) -> int:
        """How many are taken and not yet below the position."""
        return len(self._open)
