import random
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.engines.retry import FIRST_WAIT, asked_wait, wait_before_retry

FOREVER = float("inf")


@pytest.fixture
def no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jitter is as long as it can be."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)


@pytest.mark.usefixtures("no_luck")
def test_the_longest_jitter_doubles_until_the_longest_wait() -> None:
    waits = [wait_before_retry(done, 9, 3, FOREVER) for done in range(5)]
    assert waits == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT, 3, 3]


def test_the_jitter_may_be_anything_from_nothing_to_the_longest() -> None:
    waits = [wait_before_retry(2, 9, 10, FOREVER) or 0 for _ in range(1000)]
    assert min(waits) < FIRST_WAIT < max(waits) <= 4 * FIRST_WAIT


@pytest.mark.parametrize(("done", "retries"), [(0, 0), (2, 2), (3, 2)])
def test_there_is_no_retry_after_the_last(done: int, retries: int) -> None:
    assert wait_before_retry(done, retries, 10, FOREVER) is None


@pytest.mark.usefixtures("no_luck")
def test_a_wait_that_was_asked_for_is_kept_in_full() -> None:
    assert wait_before_retry(0, 2, 10, FOREVER, asked=10) == 10 + FIRST_WAIT


def test_a_wait_beyond_the_longest_is_not_begun() -> None:
    assert wait_before_retry(0, 2, 10, FOREVER, asked=10.1) is None
    assert wait_before_retry(0, 2, 10, FOREVER, asked=FOREVER) is None


@pytest.mark.usefixtures("no_luck")
def test_a_wait_that_would_end_at_or_after_the_deadline_is_not_begun() -> None:
    assert wait_before_retry(0, 2, 10, FIRST_WAIT) is None
    assert wait_before_retry(0, 2, 10, 5, asked=5) is None
    assert wait_before_retry(0, 2, 10, -1) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "inf"}, FOREVER),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "3", "retry-after-ms": "2500"}, 2.5),
        ({"retry-after": "3", "retry-after-ms": "x"}, 3),
        ({"retry-after": formatdate(1_000_090, usegmt=True)}, 90),
        # -0000 says that the date's zone is unknown: taken as UTC
        ({"retry-after": formatdate(1_000_090)}, 90),
        ({"retry-after": formatdate(999_000, usegmt=True)}, 0),
        ({"retry-after": "Mon, 99 Foo 2026 00:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 10000 00:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 2026 00:00:00 +999999999999999999"}, 0),
        ({"retry-after": "9" * 400}, FOREVER),
    ],
)
def test_a_reply_says_how_long_it_wants_to_be_left_alone(
    headers: dict[str, str], seconds: float
) -> None:
    assert asked_wait(headers, now=1_000_000) == seconds


DATE_LIKE = st.from_regex(
    r"\A(\w{0,4},? )?-?\d{0,22} (Jan|\w{0,4}) -?\d{0,22} \d{0,3}:\d{0,3}(:\d{0,3})? "
    r"?([+-]\d{0,8}|GMT|\w{0,3})?\Z"
)


@given(st.one_of(st.text(max_size=40), DATE_LIKE), st.floats(0, 1e10))
def test_whatever_it_says_it_is_a_time_to_wait(text: str, now: float) -> None:
    assert asked_wait({"retry-after": text, "retry-after-ms": text}, now) >= 0
    assert asked_wait({"retry-after": text}, now) >= 0
