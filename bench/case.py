"""What is measured: so many clients at once, whole replies or streams, as fast as they come or
paced.
"""

from dataclasses import dataclass

from bench.load import Amount
from bench.question import Question, question
from bench.upstream import MODEL, text_of

TOKENS = 64


@dataclass(frozen=True)
class Case:
    """Replies of 64 tokens; `first` and `gap` in milliseconds."""

    name: str
    concurrency: int
    stream: bool
    first: int = 0
    gap: int = 0

    def question(self, url: str, key: str = "") -> Question:
        pace = {"x_first": self.first, "x_gap": self.gap} if self.gap else {}
        return question(
            url,
            MODEL,
            stream=self.stream,
            max_tokens=TOKENS,
            more=pace,
            key=key,
            text=text_of(TOKENS),
        )

    def amount(self, seconds: float) -> Amount:
        """Paced streams begin spread over a reply's length, else they would all be in step; and go
        on for two more.
        """
        reply = (self.first + self.gap * TOKENS) / 1000
        return Amount(seconds=max(seconds, 2 * reply), ramp=reply or self.concurrency / 1000)
