"""Requests that were ended while they waited: they lie in the queue until a worker passes them, and
nobody waits for them.
"""

from collections import defaultdict
from collections.abc import Mapping

from app.protocol.request_id import Address

_MOST = 100_000  # of one model, some 10 MB; what is ended beyond it counts as waiting


class AbandonedRequests:
    """Those of one gateway: a request's place, from its end until a worker's position is behind
    it.
    """

    def __init__(self) -> None:
        # model -> partition, offset
        self._places: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)

    def add(self, model: str, address: Address | None) -> None:
        """Without an address it was never acknowledged, and may not be in the log at all."""
        if address is not None and len(self._places[model]) < _MOST:
            self._places[model].add((address.partition, address.offset))

    def passed(self, model: str, positions: Mapping[int, int]) -> None:
        """The workers begin with these offsets next."""
        if model in self._places:
            left = {
                place for place in self._places.pop(model) if place[1] >= positions.get(place[0], 0)
            }
            if left:
                self._places[model] = left

    def counts(self) -> dict[str, int]:
        return {model: len(places) for model, places in self._places.items()}
