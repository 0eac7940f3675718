"""The last requests that this gateway has answered: what their access lines say, for the operator's
view.
"""

from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, TypeAlias

# When it ended (Unix time); the model's id, the endpoint, the status and the outcome; its access
# line.
EndedRequest: TypeAlias = tuple[float, tuple[str, str, int, str], Mapping[str, object]]

_MAX_REQUESTS = 200
_NUMERIC_FIELDS = (
    "queue_ms",
    "ttft_ms",
    "upstream_ms",
    "total_ms",
    "prompt_tokens",
    "completion_tokens",
)


class RecentRequests:
    """On the hot path it costs a tuple; what is shown is made when somebody looks."""

    def __init__(self, max_requests: int = _MAX_REQUESTS) -> None:
        self._requests: deque[EndedRequest] = deque(maxlen=max_requests)
        self.add_request = self._requests.append

    def snapshot(self, max_requests: int) -> list[dict[str, Any]]:
        """The newest first."""
        return [
            _describe_request(*ended) for ended in islice(reversed(self._requests), max_requests)
        ]


def _describe_request(
    ended_at: float, labels: tuple[str, str, int, str], line: Mapping[str, object]
) -> dict[str, Any]:
    """Only what is named here: nothing else that a line may have comes to be shown. The model is an
    id, no client's word.
    """
    model, endpoint, status, outcome = labels
    return {
        "id": line.get("request_id", ""),
        "model": model,
        "endpoint": endpoint,
        "tenant": line.get("tenant", ""),
        "status": status,
        "outcome": outcome,
        "code": line.get("code"),
        "worker": line.get("worker", ""),
        "ended_at": ended_at,
        **{name: _number_or_none(line.get(name)) for name in _NUMERIC_FIELDS},
    }


def _number_or_none(value: object) -> float | None:
    """What an upstream calls its usage may be anything."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
