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


class CounterChild:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount


class HistogramChild:
    """How many values lie in each bucket, and their sum."""

    __slots__ = ("_bounds", "bucket_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.bucket_counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.bucket_counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class LockFreeCounter(Collector):
    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._family_args = name, documentation, labels
        self._children: dict[tuple[str, ...], CounterChild] = {}

    def labels(self, *values: object) -> CounterChild:
        return self._children.setdefault(tuple(map(str, values)), CounterChild())

    def describe(self) -> Iterator[CounterMetricFamily]:
        name, sentence, labels = self._family_args
        yield CounterMetricFamily(name, sentence, labels=labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        for family in self.describe():
            for labels, child in self._children.copy().items():
                family.add_metric(labels, child.value)
            yield family


class LockFreeHistogram(Collector):
    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._family_args = name, documentation, labels
        self._bounds = bounds
        self._bucket_labels = [floatToGoString(bound) for bound in (*bounds, inf)]  # type: ignore[no-untyped-call]
        self._children: dict[tuple[str, ...], HistogramChild] = {}

    def labels(self, *values: object) -> HistogramChild:
        return self._children.setdefault(tuple(map(str, values)), HistogramChild(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        name, sentence, labels = self._family_args
        yield HistogramMetricFamily(name, sentence, labels=labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for family in self.describe():
            for labels, child in self._children.copy().items():
                family.add_metric(
                    labels,
                    list(
                        zip(
                            self._bucket_labels, accumulate(child.bucket_counts.copy()), strict=True
                        )
                    ),
                    child.sum,
                )
            yield family
