"""What a measurement comes to: the numbers of one row of a table."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Percentiles(NamedTuple):
    """Of one quantity, in milliseconds."""

    p50: float
    p90: float
    p99: float


def percentiles(seconds: Iterable[float], zeros: int = 0) -> Percentiles:
    """By nearest rank, of these values and of so many zeros more; NaN where there is no value at
    all.
    """
    values = sorted(seconds)
    count = len(values) + zeros

    def at(share: float) -> float:
        if not count:
            return math.nan
        rank = math.ceil(share * count) - 1 - zeros
        return values[rank] * 1000 if rank >= 0 else 0.0

    return Percentiles(at(0.5), at(0.9), at(0.99))


@dataclass(frozen=True)
class Row:
    """One case at one concurrency.

    `requests` and `tokens` are those of the whole run, to hold against `cpu` (seconds by process,
    over the whole run); the two rates are those of the time in which all connections were busy.
    """

    part: str  # what was measured; empty for a server of the user's
    case: str
    concurrency: int
    requests: int  # whole and right
    tokens: int  # streamed ones
    errors: Mapping[str, int]
    requests_per_s: float
    tokens_per_s: float
    first_ms: Percentiles  # to the first event of a stream, to the first byte of a whole reply
    gap_ms: Percentiles
    whole_ms: Percentiles
    cpu: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two runs' rows comparable."""
        return self.part, self.case, self.concurrency

    @property
    def streamed(self) -> bool:
        return self.tokens > 0

    def cpu_per_unit(self, process: str) -> float:
        """CPU seconds per million tokens of a stream, per 1,000 requests of the rest. NaN if
        nothing succeeded.
        """
        units = self.tokens / 1_000_000 if self.streamed else self.requests / 1000
        return self.cpu[process] / units if units else math.nan

    def document(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        found = asdict(self)
        for name in ("first_ms", "gap_ms", "whole_ms"):
            quantity: Percentiles = getattr(self, name)
            found[name] = {share: _number(value) for share, value in quantity._asdict().items()}
        return found

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Row":
        """The row that `document` was made of."""
        known = dict(document)
        for name in ("first_ms", "gap_ms", "whole_ms"):
            values = {
                share: math.nan if value is None else value for share, value in known[name].items()
            }
            known[name] = Percentiles(**values)
        return cls(**known)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
