"""The live view of /ui in real Chromium: what it shows, and to whom."""

import pytest

from tests.acceptance.asking import CHAT, chat
from tests.acceptance.stack import Stack
from tests.acceptance.ui.browser import Page
from tests.acceptance.ui.page import (
    AWAY,
    KEY,
    LONG,
    OPERATOR,
    NewTab,
    Site,
    ask,
    has_models,
    reaches,
)
from tests.nginx import free_port

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="session")]

# What the bar of each request is made of.
BARS = (
    "[...document.querySelectorAll('#requests tbody tr')]"
    ".map((row) => [...row.querySelectorAll('.bar i')].map((one) => one.className).join())"
)
# a gateway believes that of a browser on its machine
ELSEWHERE = {"X-Forwarded-For": "203.0.113.7"}


async def test_the_live_view_shows_what_was_asked(page: Page) -> None:
    await ask(page, "echo")
    await reaches(page, "done")
    number = await page.text("#request-id")
    await page.click("#to-live")
    await page.until(
        f"document.querySelector('#requests').innerText.includes({number[:12]!r})", "the request"
    )
    row = await page.text("#requests tbody tr")
    assert "completed" in row
    assert "queued" in row
    assert "total" in row
    models, workers = (
        f"document.querySelector('#{name}').innerText" for name in ("models", "workers")
    )
    await page.until(f"{models}.includes('parrot') && {models}.includes('0 / 4')", "the models")
    await page.until(
        f"{workers}.split('ready').length === 6 && {workers}.split('not ready').length === 2",
        "the workers",
    )
    assert "none" in await page.text("#letters")


async def test_the_live_view_follows_a_request_from_the_queue_to_its_end(
    page: Page, ui_site: Site
) -> None:
    await page.click("#to-live")
    shown = "document.querySelector('#requests').innerText"
    async with ui_site.occupied("narrow", clients=1):
        await page.until(f"{shown}.includes('running · for')", "one that is running")
        async with ui_site.occupied("narrow", clients=1):
            await page.until(f"{shown}.includes('queued · for')", "one that is queued")
        # The running one stays until then: a gateway notices a client that has gone only after a
        # probe.
        await page.until(
            f"{BARS}.includes('queued') && !{shown}.includes('queued · for')",
            "the end of the one that has only waited",
        )
    await page.until(f"!{shown}.includes('· for')", "the end of both")
    row = await page.evaluate(
        f"document.querySelectorAll('#requests tbody tr')[{BARS}.indexOf('queued')].innerText"
    )
    assert "left" in row
    assert "queued" in row


async def test_of_a_stream_that_is_stopped_the_live_view_keeps_its_worker_and_its_first_token(
    page: Page,
) -> None:
    await ask(page, "sim", **LONG)
    await page.until("document.querySelector('#answer').textContent.length > 5", "some words")
    number = await page.text("#request-id")
    await page.click("#stop")
    await page.click("#to-live")
    row = (
        f"[...document.querySelectorAll('#requests tbody tr')].find((row) => "
        f"row.innerText.includes({number!r}))"
    )
    await page.until(f"{row}?.innerText.includes('left')", "its end")
    assert "first token" in await page.evaluate(f"{row}.innerText")
    worker = await page.evaluate(f"{row}.querySelector('[data-name=Worker]').innerText")
    await page.until(
        f"document.querySelector('#workers').innerText.includes({worker!r})", "it among the workers"
    )


async def test_a_worker_that_is_not_ready_is_none_that_takes_requests(
    page: Page, ui_site: Site
) -> None:
    await page.click("#to-live")
    row = (
        f"[...document.querySelectorAll('#models tbody tr')].find((row) => "
        f"row.innerText.includes({AWAY!r}))"
    )
    await page.until(
        f"{row}?.querySelector('[data-name=Workers]').innerText === '0 of 1'", "the count"
    )
    assert (await ui_site.gateway.models())[AWAY]["workers"] == 0
    await page.until(
        "document.querySelector('#tiles').innerText.includes('4 of 5')", "the count of all"
    )


async def test_the_live_view_stands_still_while_it_is_paused(page: Page) -> None:
    await page.click("#to-live")
    await page.until("!document.querySelector('#views').hidden", "the view")
    await page.click("#pause")
    await page.until("document.querySelector('#live-state').textContent === 'Paused'", "the pause")
    assert (
        await page.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')")
        == "true"
    )
    await page.click("#watch [type=submit]")
    await page.until(
        "document.querySelector('#live-state').textContent.startsWith('Gateway')", "it to go on"
    )


async def test_the_live_view_is_refused_without_an_operators_key(
    new_tab: NewTab, ui_site: Site
) -> None:
    page = await new_tab()
    await page.send("Network.setExtraHTTPHeaders", headers=ELSEWHERE)
    await page.open(f"{ui_site.url}#live")
    for key in ("", KEY):
        await page.fill("#operator", key)
        await page.press("Enter")
        said = "This operator" if key else "The live view is for the operator"
        await page.until(
            f"document.querySelector('#live-state').textContent.startsWith({said!r})", "the refusal"
        )
        assert await page.evaluate("document.querySelector('#views').hidden")
        assert await page.evaluate("document.querySelector('#models').textContent") == ""
    await page.fill("#operator", OPERATOR)
    await page.press("Enter")
    await page.until("document.querySelector('#models').innerText.includes('parrot')", "the view")


async def test_the_admin_port_has_the_live_view_alone(
    new_tab: NewTab, ui_stack: Stack, ui_site: Site
) -> None:
    port = free_port()
    gateway = await ui_stack.gateway(ready=False, ADMIN_PORT=str(port), API_KEYS=KEY)
    await gateway.ready()
    page = await new_tab()
    await page.open(f"http://127.0.0.1:{port}/ui")
    await page.until("document.querySelector('#models').innerText.includes('parrot')", "the view")
    assert await page.evaluate(
        "document.querySelector('#playground').hidden && "
        "document.querySelector('#to-playground').hidden"
    )
    gateway.terminate()
    await gateway.ended()


async def test_of_several_gateways_the_live_view_has_the_requests_of_all(new_tab: NewTab) -> None:
    async with Stack("several") as stack:
        await stack.worker("sim", await stack.upstream())
        asked, watched = [await stack.gateway() for _ in range(2)]
        async with asked.http() as http:
            assert (await http.post(CHAT, json=chat())).status_code == 200
        page = await new_tab()
        await page.open(f"{watched.root}/ui#live")
        await page.until(
            "!!document.querySelector('#requests tbody tr')", "the other gateway's request"
        )
        here = await page.text("#live-state")
        there = await page.text("#requests [data-name=Gateway]")
    assert there
    assert there not in here


async def test_behind_nginx_one_can_ask_and_not_watch(
    new_tab: NewTab, ui_stack: Stack, ui_site: Site
) -> None:
    front = ui_stack.nginx(ui_site.gateway)
    page = await new_tab()
    await page.open(f"{front.root}/ui")
    await page.fill("#key", KEY)
    await page.press("Enter")
    await has_models(page)
    await ask(page, "echo", "through nginx")
    await reaches(page, "done")
    assert "through nginx" in await page.text("#answer")
    await page.click("#to-live")
    await page.until(
        "document.querySelector('#live-state').textContent.includes('for the operator')",
        "the refusal",
    )
