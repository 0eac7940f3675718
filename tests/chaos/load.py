"""The clients: each sends one request after another through nginx, of changing kinds, and keeps
what it was told.
"""

import asyncio
import secrets
from collections.abc import Callable
from random import Random
from typing import Any

from tests.acceptance.asking import chat
from tests.acceptance.reading import Clients, Reading, Told
from tests.acceptance.services import Endpoint
from tests.chaos.deployment import DEADLINE, MODELS
from tests.chaos.ledger import ASYNC, CANCELLED, IDEMPOTENT, PLAIN, Promise

_MIX = {PLAIN: 9, IDEMPOTENT: 8, CANCELLED: 3, ASYNC: 2}
_TOKENS = (1, 100)  # of a reply
_GAP = 0.05  # seconds between two tokens
_PAUSE = (0.2, 0.8)  # seconds before a client tries again
PATIENCE = DEADLINE + 30  # seconds that a client goes on trying
_FINAL = ("completed", "failed", "cancelled", "expired")


class Client:
    """One program. It never has more than one request under way."""

    def __init__(
        self, clients: Clients, front: Endpoint, random: Random, ledger: list[Promise]
    ) -> None:
        self._clients = clients
        self._front = front
        self._random = random
        self._ledger = ledger

    async def run(self, done: asyncio.Event) -> None:
        """Until `done` is set and its last request has ended."""
        kinds = {
            PLAIN: self._plain,
            IDEMPOTENT: self._idempotent,
            CANCELLED: self._cancelled,
            ASYNC: self._async,
        }
        while not done.is_set():
            kind = self._random.choices(list(_MIX), list(_MIX.values()))[0]
            promise = Promise(
                kind, stream=self._random.random() < 0.6, count=self._random.randint(*_TOKENS)
            )
            self._ledger.append(promise)
            await kinds[kind](promise)
            if not promise.ids:
                await self._pause()

    async def _plain(self, promise: Promise) -> None:
        promise.take(await _end(self._post(promise)))

    async def _cancelled(self, promise: Promise) -> None:
        """Closes the connection at any moment, also before the head, or just does not get to."""
        reading = self._post(promise)
        ended = asyncio.create_task(_end(reading))
        finished, _ = await asyncio.wait([ended], timeout=self._random.uniform(0.02, 3.0))
        if not finished:
            await reading.leave()
            await asyncio.gather(ended, return_exceptions=True)
            promise.left = True
        promise.take(reading.told)

    async def _idempotent(self, promise: Promise) -> None:
        """Sends it again until it has the whole answer; a stream goes on behind the last event that
        came.
        """
        key = secrets.token_hex(16)
        await self._tried(lambda: self._once_more(promise, key))

    async def _once_more(self, promise: Promise, key: str) -> bool:
        seen = {"Last_Event_ID": str(promise.last_event)} if promise.last_event else {}
        told = await _end(self._post(promise, Idempotency_Key=key, **seen))
        promise.take(told)
        return promise.answered

    async def _async(self, promise: Promise) -> None:
        """Is told an id at once, and asks for the result until it is there."""
        told = await _end(self._post(promise, Prefer="respond-async"))
        promise.take(told)
        if told.status == 202:
            await self._tried(lambda: self._polled(promise))

    async def _polled(self, promise: Promise) -> bool:
        told = await _end(self._clients.get(self._front, f"/v1/requests/{promise.ids[0]}"))
        if told.status == 200 and told.json["status"] in _FINAL:
            promise.take(
                await _end(self._clients.get(self._front, f"/v1/requests/{promise.ids[0]}/result"))
            )
        elif told.status != 200:
            promise.take(told)
        return promise.answered

    async def _tried(self, attempt: Callable[[], Any]) -> None:
        """Tries until it is answered, for as long as a client has patience."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while not await attempt() and asyncio.get_running_loop().time() < end:
            await self._pause()

    def _post(self, promise: Promise, **headers: str) -> Reading:
        options = {"stream_options": {"include_usage": True}} if promise.stream else {}
        model = MODELS[promise.count % len(MODELS)]
        body = chat(
            model,
            stream=promise.stream,
            max_tokens=promise.count,
            x_gap=_GAP,
            x_odd=promise.count % 3 == 0,
            **options,
        )
        return self._clients.post(self._front, body, **headers)

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(*_PAUSE))


async def _end(reading: Reading) -> Told:
    """What was told by the reply's end, or by the time the client's patience ended."""
    try:
        return await reading.end()
    except TimeoutError:
        reading.told.cut = True
        return reading.told
