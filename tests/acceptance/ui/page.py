"""What the tests of the page /ui do with it, and read from it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from tests.acceptance.asking import CHAT, HELLO
from tests.acceptance.services import Gateway, Upstream
from tests.acceptance.ui.browser import Page

KEY, OPERATOR = "sk-of-a-client-0123", "op-of-an-operator-0123"
AWAY = "a-model-of-70b-whose-server-is-away"  # its worker lives and is not ready
NewTab: TypeAlias = Callable[[], Awaitable[Page]]
# a stream of minutes, that nobody waits for
LONG: dict[str, Any] = {"max_tokens": 10_000, "x_gap": 0.05}


class Site:
    """One gateway, whose clients need a key, with the demonstration model under two names and a
    simulated upstream's.
    """

    def __init__(self, gateway: Gateway, upstream: Upstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.url = f"{gateway.root}/ui"

    async def serves_all_but_one(self) -> bool:
        return sorted(model["workers"] for model in (await self.gateway.models()).values()) == [
            0,
            1,
            1,
            1,
            1,
        ]

    @asynccontextmanager
    async def occupied(self, model: str, clients: int) -> AsyncIterator[None]:
        """Meanwhile the model has so many clients with long replies."""
        async with self.gateway.http() as http:
            body = {"model": model, "messages": HELLO, "stream": True, **LONG}
            tasks = [asyncio.create_task(http.post(CHAT, json=body)) for _ in range(clients)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)


async def has_models(page: Page) -> None:
    await page.until("document.querySelectorAll('#model option').length > 0", "the models")


async def choose(page: Page, model: str) -> None:
    await page.evaluate(f"document.querySelector('#model').value = {json.dumps(model)}")


async def ask(page: Page, chosen: str, text: str = "hello", **more: Any) -> None:
    """Fills in the form and sends it; `more` are its more fields."""
    await choose(page, chosen)
    await page.fill("#user", text)
    await page.evaluate(f"document.querySelector('#more').value = {json.dumps(json.dumps(more))}")
    await page.click("#send")


async def reaches(page: Page, state: str) -> str:
    """Waits for a state of the reply; gives what is said of it."""
    await page.until(
        f"document.querySelector('#state').dataset.state === {state!r}", f"the state {state}"
    )
    return await page.text("#state")


async def figure(page: Page, name: str) -> str:
    return await page.text(f"#{name}")


async def copied(page: Page, button: str) -> str:
    """What a click on it puts into the clipboard."""
    await page.evaluate("navigator.clipboard.writeText('')")
    await page.click(button)
    await page.until("navigator.clipboard.readText()", "something to be copied")
    text: str = await page.evaluate("navigator.clipboard.readText()")
    assert KEY not in text
    assert await page.text("#snippet")
    return text
