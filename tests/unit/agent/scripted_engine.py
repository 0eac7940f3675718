"""An engine that answers as a test tells it, and remembers what it was asked."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.agent.engines.base import EngineBroken, EngineUnreachable, Job, Take
from app.errors import GatewayError
from tests.numbered import Generation
from tests.unit.scene import MODEL, until

EVENT_STREAM = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)


class Hold:
    """A piece that does not come before it is let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()


BROKEN = EngineBroken("reset by peer")
Piece = bytes | Hold | EngineBroken


@dataclass
class ScriptedAnswer:
    """Its pieces one by one; a Hold waits, an EngineBroken is raised."""

    pieces: Sequence[Piece]
    status: int = 200
    headers: tuple[tuple[str, str], ...] = EVENT_STREAM
    closed: bool = False

    @property
    def is_stream(self) -> bool:
        return self.headers == EVENT_STREAM

    async def read(self, most: int = 1_000_000) -> bytes:
        pieces: list[bytes] = []
        await self.relay(pieces.append)
        return b"".join(pieces)

    async def relay(self, take: Take) -> None:
        for piece in self.pieces:
            if isinstance(piece, Hold):
                piece.reached.set()
                await piece.released.wait()
            elif isinstance(piece, EngineBroken):
                raise piece
            else:
                if (pause := take(piece)) is not None:
                    await pause
                await asyncio.sleep(0)

    async def close(self) -> None:
        self.closed = True


class ScriptedEngine:
    """The answers in their order; when they are used up, a numbered generation as the request asks
    for it.

    With `gone` it says why nobody is there: to each check and each call.
    """

    def __init__(
        self,
        *answers: ScriptedAnswer | EngineUnreachable | GatewayError,
        natural: int = 5,
        continues: bool = True,
    ) -> None:
        self._answers = deque(answers)
        self._natural = natural
        self._continues = continues
        self.jobs: list[Job] = []
        self.given: list[ScriptedAnswer] = []
        self.gone = ""
        self.checks = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def check(self) -> str:
        self.checks += 1
        return self.gone

    async def continues(self) -> bool:
        return self._continues

    async def call(self, job: Job) -> ScriptedAnswer:
        self.jobs.append(job)
        if self.gone:
            raise EngineUnreachable(self.gone)
        answer = self._answers.popleft() if self._answers else self._generated(job)
        if isinstance(answer, EngineUnreachable | GatewayError):
            raise answer
        self.given.append(answer)
        return answer

    def bodies(self) -> list[Any]:
        return [orjson.loads(job.body) for job in self.jobs]

    def _generated(self, job: Job) -> ScriptedAnswer:
        body, path, id_ = orjson.loads(job.body), job.path.partition("?")[0], str(len(self.jobs))
        if job.stream:
            return ScriptedAnswer(stream(body, natural=self._natural, path=path, id_=id_))
        run = Generation.of(id_, path, body, self._natural)
        return ScriptedAnswer([orjson.dumps(run.whole())], headers=JSON)


def stream(
    body: dict[str, Any], *, natural: int = 5, path: str = "/chat/completions", id_: str = "1"
) -> list[Piece]:
    """The events of one run, each a piece; the last piece has the finish, the usage that was asked
    for and [DONE].
    """
    run = Generation.of(id_, path, body, natural)
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    pieces = [run.opening(), *(run.token(index) for index in range(run.count)), run.closing(usage)]
    return [piece for piece in pieces if piece]


def slow(after: int = 2) -> ScriptedAnswer:
    """A stream of five tokens that stops after the role and so many of them, until its Hold is
    released.
    """
    pieces = stream(
        {"model": MODEL, "messages": [{"role": "user", "content": "count"}], "max_tokens": 5}
    )
    return ScriptedAnswer([*pieces[: after + 1], Hold(), *pieces[after + 1 :]])


def hold_of(answer: ScriptedAnswer) -> Hold:
    return next(piece for piece in answer.pieces if isinstance(piece, Hold))


async def reached(engine: ScriptedEngine, count: int = 1) -> None:
    """Waits until the answer to the request of this number stands at its Hold."""
    await until(
        lambda: len(engine.given) >= count and hold_of(engine.given[count - 1]).reached.is_set()
    )
