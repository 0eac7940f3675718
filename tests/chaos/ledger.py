"""What one client was promised and what it was told: pure, so that the reckoning itself can be
tested.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.acceptance.reading import DONE, Told

PLAIN, IDEMPOTENT, CANCELLED, ASYNC = "plain", "idempotent", "cancelled", "async"
CUT, NO_END = "connection_cut", "ended_without_done"

_NUMBER = re.compile(r" tok(\d+)")


@dataclass
class Promise:
    """One request of one client: accepted as soon as an id of it is known."""

    kind: str
    stream: bool
    count: int  # tokens it asked for
    ids: list[str] = field(default_factory=list)  # more than one only where it was run anew
    told: list[Told] = field(default_factory=list, repr=False)  # of each try
    left: bool = False  # the client closed the connection

    def take(self, told: Told) -> None:
        """What a try was told, when it has ended."""
        self.told.append(told)
        id_ = told.headers.get("x-request-id", "")
        # a request that is refused has another kind of id
        if id_.startswith("req_") and id_ not in self.ids:
            self.ids.append(id_)

    @property
    def last_event(self) -> int:
        """The number of the last event that came; 0 if none did."""
        return next((told.ids[-1] for told in reversed(self.told) if told.ids), 0)

    @property
    def answered(self) -> bool:
        """The last try ended as a whole reply."""
        return bool(self.told) and is_whole(self.told[-1])

    @property
    def events(self) -> list[Any]:
        """Of all tries, one behind the other, but for errors: a gateway may have to end a stream
        before the log does.
        """
        return [event for told in self.told for event in told.events if not _code(event)]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the tokens that the client has, in the order in which they came."""
        return numbers_of("".join(text_of(told) for told in self.told))

    @property
    def pauses(self) -> list[float]:
        """Seconds between two events, over all tries."""
        times = [time for told in self.told for time in told.times]
        return [after - before for before, after in pairwise(times)]

    @property
    def errors(self) -> list[str]:
        """What was told instead of a reply, try by try."""
        found = [error_of(told) for told in self.told if not (self.left and told is self.told[-1])]
        return [error for error in found if error]


def is_whole(told: Told) -> bool:
    return told.status == 200 and (
        told.events[-1:] == [DONE]
        if told.events or told.comments
        else bool(told.body) and not told.cut
    )


def error_of(told: Told) -> str:
    """The kind of an error, by its code; empty where there was none."""
    if is_whole(told) or told.status == 202:
        return ""
    if told.cut or not told.status:
        return CUT
    if told.events or told.status == 200:
        return _code(told.events[-1]) or NO_END if told.events else NO_END
    return _code(told.json) or str(told.status)


def _code(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else ""


def text_of(told: Told) -> str:
    """The text of a chat, streamed or whole; empty where none came."""
    if told.events or told.comments or not told.body or told.status != 200:
        return told.text
    return str(told.json["choices"][0]["message"]["content"]) if "choices" in told.json else ""


def numbers_of(text: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(text)]


def gaps(numbers: Iterable[int], expected: int | None = None) -> tuple[int, int]:
    """How many tokens came again, or too late, and how many of those before `expected`, or before
    the last, did not come.
    """
    doubled = missing = ahead = 0
    for number in numbers:
        if number < ahead:
            doubled += 1
        else:
            missing += number - ahead
            ahead = number + 1
    return doubled, missing + (max(0, expected - ahead) if expected is not None else 0)


def percentile(values: Sequence[float], share: float) -> float:
    """By the nearest rank; 0 where there are no values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0
