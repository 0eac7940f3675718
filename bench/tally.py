"""What the connections of one run count together."""

from array import array
from collections import Counter
from collections.abc import Mapping

from bench.figures import Row, percentiles


class Tally:
    """Times in seconds. Rates count what falls between `begin` and `end`, when every connection is
    busy.
    """

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.end = end
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # of each kind of error what was seen first
        self.gaps_of_nothing = 0
        self._first = array("d")
        self._gaps = array("d")
        self._whole = array("d")
        self._tokens = 0
        self._events = 0
        self._requests_within = 0
        self._events_within = 0

    @property
    def answered_requests(self) -> int:
        return len(self._whole)

    @property
    def failed_requests(self) -> int:
        return self.errors.total()

    def gap(self, seconds: float) -> None:
        """Between two reads of a stream's events."""
        self._gaps.append(seconds)

    def arrived(self, events: int, now: float) -> None:
        """Events of a stream."""
        if self.begin <= now <= self.end:
            self._events_within += events

    def answered(self, first: float, whole: float, now: float, tokens: int, events: int) -> None:
        """A request that went well."""
        self._first.append(first)
        self._whole.append(whole)
        self._tokens += tokens
        self._events += events
        if self.begin <= now <= self.end:
            self._requests_within += 1

    def error(self, kind: str, detail: str) -> None:
        """A request that did not."""
        self.errors[kind] += 1
        self.examples.setdefault(kind, detail)

    def row(
        self, part: str, case: str, concurrency: int, cpu: Mapping[str, float] | None = None
    ) -> Row:
        """The figures of the run."""
        seconds = self.end - self.begin
        # A reply's other events (role, finish, [DONE]) arrive among the tokens, in a fixed share.
        share = self._tokens / self._events if self._events else 0.0
        return Row(
            part,
            case,
            concurrency,
            requests=self.answered_requests,
            tokens=self._tokens,
            errors=dict(self.errors),
            requests_per_s=self._requests_within / seconds,
            tokens_per_s=self._events_within * share / seconds,
            first_ms=percentiles(self._first),
            gap_ms=percentiles(self._gaps, self.gaps_of_nothing),
            whole_ms=percentiles(self._whole),
            cpu=cpu or {},
        )
