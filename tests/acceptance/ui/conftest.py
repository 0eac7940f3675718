"""One browser and one deployment for all tests of the page; each test has tabs of its own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from tests.acceptance.processes import until
from tests.acceptance.stack import Stack
from tests.acceptance.ui.browser import Browser, Page, running_browser
from tests.acceptance.ui.page import AWAY, KEY, OPERATOR, NewTab, Site, has_models


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ui_stack() -> AsyncIterator[Stack]:
    async with Stack(
        "ui",
        bus="memory",
        HEARTBEAT_SECONDS="0.2",
        WORKER_CONCURRENCY="4",
        KAFKA_REQUEST_PARTITIONS="1",
    ) as stack:
        yield stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ui_site(ui_stack: Stack) -> Site:
    upstream = await ui_stack.upstream("sim", "narrow")
    away = {"id": AWAY, "host": "http://127.0.0.1:9"}
    echo, parrot = ({"id": name, "engine": "echo"} for name in ("echo", "parrot"))
    ui_stack.models(
        away,
        echo,
        parrot,
        {"id": "sim", "host": upstream.url},
        {"id": "narrow", "host": upstream.url, "concurrency": 1},
    )
    site = Site(await ui_stack.gateway(ready=False, API_KEYS=KEY, OPERATOR_KEYS=OPERATOR), upstream)
    await until(site.serves_all_but_one, "the models to be served")
    return site


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def new_tab(browser: Browser) -> AsyncIterator[NewTab]:
    """Opens tabs. At the end none has asked anybody but its own page's server, and their consoles
    are clean.
    """
    tabs: list[Page] = []

    async def opened(**looks: Any) -> Page:
        tabs.append(await browser.page(**looks))
        return tabs[-1]

    yield opened
    for page in tabs:
        origin = await page.evaluate("location.origin")
        assert [url for url in page.requested if not url.startswith(f"{origin}/")] == []
        assert page.faults == []
        await browser.close(page)


@pytest_asyncio.fixture(loop_scope="session")
async def page(new_tab: NewTab, ui_site: Site) -> Page:
    """The page, open, with the client's key."""
    page = await new_tab()
    await page.open(ui_site.url)
    await page.fill("#key", KEY)
    await page.press("Tab")
    await has_models(page)
    return page
