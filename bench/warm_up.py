"""Load before a measurement, until what is measured has come up to speed."""

from dataclasses import dataclass
from time import perf_counter

from bench.load import Amount, measure
from bench.processes import BenchError
from bench.question import Question

_CONCURRENCY = 32
_BURST = 1.0  # seconds


@dataclass(frozen=True)
class WarmUp:
    """So many requests, or so many seconds, whichever comes first."""

    requests: int
    seconds: float


SHORT = WarmUp(2000, 2)
# A broker that has just started: Java compiles what it has run some ten thousand times, and until
# then a request costs it 12 ms of CPU instead of 0.7.
BROKER = WarmUp(15_000, 45)
BROKER_QUICK = WarmUp(5000, 8)


async def try_once(question: Question, timeout: float) -> None:
    """One request, for at most so many seconds. Raises BenchError, which says why, unless it is
    answered as it should be.
    """
    tally = await measure(question, 1, Amount(requests=1), timeout)
    for fault, example in tally.examples.items():
        raise BenchError(
            f"{question.host}:{question.port} does not answer as it should: {fault}: {example}"
        )


async def warm_up(whole: Question, streamed: Question, amount: WarmUp) -> None:
    """Whole replies and streams by turns. Raises BenchError if either is not answered as it should
    be.
    """
    begin = perf_counter()
    answered = 0
    while answered < amount.requests and perf_counter() - begin < amount.seconds:
        for question in (whole, streamed):
            tally = await measure(question, _CONCURRENCY, Amount(seconds=_BURST))
            if not tally.answered_requests:
                raise BenchError(
                    f"{question.host}:{question.port} answers nothing as it should: "
                    f"{tally.examples}"
                )
            answered += tally.answered_requests
