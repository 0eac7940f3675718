"""Counters and histograms for the hot path: a fifth of the cost of prometheus_client's own, which
take a lock for each number.

One thread counts, the event loop's; any may collect.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class Spread:
    """How many values lie in each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class TallyCounter(Collector):
    def __init__(self, name: str, sentence: str, labels: Sequence[str]) -> None:
        self._described = name, sentence, labels
        self._children: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: object) -> Count:
        return self._children.setdefault(tuple(map(str, values)), Count())

    def describe(self) -> Iterator[CounterMetricFamily]:
        name, sentence, labels = self._described
        yield CounterMetricFamily(name, sentence, labels=labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        for family in self.describe():
            for labels, child in self._children.copy().items():
                family.add_metric(labels, child.value)
            yield family


class TallyHistogram(Collector):
    def __init__(
        self, name: str, sentence: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._described = name, sentence, labels
        self._bounds = bounds
        self._shown = [floatToGoString(bound) for bound in (*bounds, inf)]  # type: ignore[no-untyped-call]
        self._children: dict[tuple[str, ...], Spread] = {}

    def labels(self, *values: object) -> Spread:
        return self._children.setdefault(tuple(map(str, values)), Spread(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        name, sentence, labels = self._described
        yield HistogramMetricFamily(name, sentence, labels=labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for family in self.describe():
            for labels, child in self._children.copy().items():
                family.add_metric(
                    labels,
                    list(zip(self._shown, accumulate(child.counts.copy()), strict=True)),
                    child.sum,
                )
            yield family
