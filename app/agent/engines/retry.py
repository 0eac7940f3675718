"""When a request that got no useful reply is sent again, and after how long. Pure but for the
jitter.
"""

import random
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

RETRIED = frozenset({429, 500, 502, 503, 504})
FIRST_WAIT = 0.5  # seconds; twice as long each time


def wait_before_retry(
    done: int, retries: int, longest: float, left: float, asked: float = 0
) -> float | None:
    """Seconds until the next try, or None if there is to be none.

    `done` retries of `retries` are used up, `left` seconds remain until the deadline, and the
    upstream asked for a wait of `asked` seconds. A wait that the upstream asked for is kept in full
    or not begun. The rest is full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if done >= retries or asked > longest:
        return None
    wait = asked + random.uniform(0, min(longest, FIRST_WAIT * 2**done))
    return wait if wait < left else None


def asked_wait(headers: Mapping[str, str], now: float) -> float:
    """Seconds that a reply asks to be left alone: `retry-after-ms`, or `retry-after` in seconds or
    as an HTTP date.

    `now` is the wall clock's time. 0 if the reply asks for nothing that can be read (RFC 9110,
    10.2.3).
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _number(text)
    return seconds if seconds is not None else _until(text, now)


def _number(text: str) -> float | None:
    try:
        return max(0.0, float(text))  # max() also turns "nan" into 0
    except ValueError:
        return None


def _until(date: str, now: float) -> float:
    try:
        moment = parsedate_to_datetime(date)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError, OSError):  # the year 9999 is beyond some clocks
        return 0
