"""The playground of /ui in real Chromium: asking a model, stopping it, copying the request."""

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.acceptance.processes import until
from tests.acceptance.ui.browser import Page
from tests.acceptance.ui.page import (
    AWAY,
    KEY,
    LONG,
    NewTab,
    Site,
    ask,
    choose,
    copied,
    figure,
    has_models,
    reaches,
)

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="session")]

AWKWARD = (
    'it\'s "$HOME" `ls` \\n %s é\n<img src=x '
    "onerror=\"document.title='run'\"><script>document.title='run'</script> \u2028'"
)
NOT_KNOWN = "\u2013"


async def output(*command: str) -> str:
    """What a command prints that finds the key in its environment."""
    environment = {"PATH": "/usr/bin:/bin", "OPENAI_API_KEY": KEY}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=-1, stderr=-1)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_chosen_models_answer_is_streamed_with_its_figures(page: Page) -> None:
    await ask(page, "parrot", "one two three")
    assert await reaches(page, "done") == "Done"
    assert (await page.text("#answer")).startswith("You said: one two three")
    first, total = await figure(page, "first"), await figure(page, "total")
    assert first.endswith("ms") or first.endswith("s")
    assert total.endswith("ms") or total.endswith("s")
    assert float(await figure(page, "rate")) > 0
    assert int(await figure(page, "tokens")) == len((await page.text("#answer")).split())
    assert (await page.text("#request-id")).startswith("req_")


async def test_a_model_with_a_worker_is_chosen_at_first_and_a_long_name_can_be_read(
    page: Page,
) -> None:
    await page.looks(width=1280, height=900)
    assert await page.evaluate("document.querySelector('#model').options[0].value") == AWAY
    assert await page.evaluate("document.querySelector('#model').value") == "echo"
    await page.evaluate("document.querySelector('#model').focus()")
    await page.press("a")
    text = f"{AWAY} (no workers)"
    assert await page.evaluate("document.querySelector('#model').title") == text
    # As wide as its text and what a list has around it. A list has no scrollWidth of its text, so a
    # copy of it is measured.
    room = """(() => {
      const [field, copy] = [document.querySelector('#model'), document.createElement('select')];
      copy.append(field.selectedOptions[0].cloneNode(true));
      const font = getComputedStyle(field).font;
      Object.assign(copy.style, { width: 'auto', position: 'absolute', font });
      field.after(copy);
      const needed = copy.offsetWidth;
      copy.remove();
      return field.offsetWidth - needed;
    })()"""
    assert await page.evaluate(room) >= 0
    await page.click("#reload")
    await page.until(
        "document.querySelector('#model').value.startsWith('a-model')", "the choice to stay"
    )


async def test_a_whole_reply_is_shown_too(page: Page) -> None:
    await page.click("#stream")
    await ask(page, "echo", "all at once")
    await reaches(page, "done")
    assert (await page.text("#answer")).startswith("You said: all at once")
    assert await figure(page, "first") == NOT_KNOWN
    assert float(await figure(page, "rate")) > 0


async def test_the_parameters_reach_the_model(page: Page, ui_site: Site) -> None:
    for name, value in (
        ("temperature", "0.5"),
        ("top_p", "0.9"),
        ("max_tokens", "3"),
        ("seed", "7"),
    ):
        await page.fill(f"#{name}", value)
    await page.fill("#system", "Count.")
    await ask(page, "sim", "hello", x_mine=1)
    assert await reaches(page, "done") == "Done: cut off at the longest reply"
    assert (await ui_site.upstream.last()).json == {
        **{"model": "sim", "stream": True, "stream_options": {"include_usage": True}, "x_mine": 1},
        **{"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "seed": 7},
        "messages": [{"role": "system", "content": "Count."}, {"role": "user", "content": "hello"}],
    }
    assert await figure(page, "tokens") == "3"


@pytest.mark.parametrize("by", ["button", "key"])
async def test_a_stream_that_is_stopped_in_the_middle_costs_the_model_nothing_more(
    page: Page, ui_site: Site, by: str
) -> None:
    before = await ui_site.upstream.stats()
    await ask(page, "sim", **LONG)
    await page.until("document.querySelector('#answer').textContent.length > 5", "some words")
    await (page.click("#stop") if by == "button" else page.press("Escape"))
    await page.until("document.querySelector('#state').textContent === 'Stopped'", "the stop")
    shown = await page.text("#answer")
    await until(
        lambda: ui_site.upstream.has(active=0, aborted=before.aborted + 1),
        "the upstream to be let go",
    )
    assert await page.text("#answer") == shown
    assert float(await figure(page, "rate")) > 0
    assert await page.evaluate("document.querySelector('#stop').disabled")


async def test_a_request_that_waits_sees_its_place_in_the_queue(page: Page, ui_site: Site) -> None:
    async with ui_site.occupied("narrow", clients=3):
        await until(lambda: _queued(ui_site, 2), "two to wait")
        await ask(page, "narrow", max_tokens=2)
        await page.until(
            "/^[1-9]/.test(document.querySelector('#place').textContent)", "the place in the queue"
        )
        assert await page.text("#state") == "Waiting for a worker"
    await reaches(page, "done")


async def _queued(ui_site: Site, count: int) -> bool:
    return (await ui_site.gateway.models())["narrow"]["queue_depth"] >= count


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"x_error_after": 2}, "scripted"),
        ({"x_status": 400}, "scripted 400"),
        ({"messages": 1}, "messages"),
        ({"model": "nobody"}, "404 model_not_found"),
    ],
)
async def test_what_goes_wrong_is_said_in_words(
    page: Page, more: dict[str, Any], said: str
) -> None:
    await ask(page, "sim", **more)
    assert said in await reaches(page, "failed")
    page.faults.clear()  # the console has the refused ones


async def test_more_fields_that_are_no_json_object_are_not_sent(page: Page) -> None:
    await page.evaluate("document.querySelector('#more').value = '[1]'")
    requests = len(page.requested)
    await page.click("#send")
    await page.until("document.querySelector('#more').validationMessage !== ''", "the complaint")
    assert "no JSON object" in await page.evaluate(
        "document.querySelector('#more').validationMessage"
    )
    assert len(page.requested) == requests
    page.faults.clear()


async def test_what_a_model_writes_is_text_and_never_html(page: Page) -> None:
    await ask(page, "echo", AWKWARD)
    await reaches(page, "done")
    assert (await page.evaluate("document.querySelector('#answer').textContent")).startswith(
        f"You said: {AWKWARD}\n"
    )
    assert await page.evaluate("document.querySelector('#answer').childElementCount") == 0
    assert await page.evaluate("document.title") == "LLM gateway"


async def test_the_policy_stops_what_would_run_all_the_same(page: Page) -> None:
    with pytest.raises(AssertionError, match="TrustedHTML"):
        await page.evaluate(f"document.querySelector('#answer').innerHTML = {json.dumps(AWKWARD)}")
    page.faults.clear()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_copied_curl_works_as_it_is(page: Page, stream: bool) -> None:
    if not stream:
        await page.click("#stream")
    await choose(page, "echo")
    await page.fill("#user", AWKWARD)
    command = await copied(page, "#as-curl")
    said = await output("/bin/sh", "-c", f"{command} -sS")
    if stream:
        chunks = [json.loads(line[6:]) for line in said.split("\n") if line.startswith("data: {")]
        text = "".join(
            choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
        )
    else:
        text = json.loads(said)["choices"][0]["message"]["content"]
    assert text.startswith(f"You said: {AWKWARD}\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_the_copied_python_works_as_it_is(page: Page, stream: bool) -> None:
    if not stream:
        await page.click("#stream")
    await choose(page, "echo")
    await page.fill("#user", AWKWARD)
    more = json.dumps({"x_mine": [True, None, {"a": 1.5}]})
    await page.evaluate(f"document.querySelector('#more').value = {json.dumps(more)}")
    program = await copied(page, "#as-python")
    assert '{"x_mine": [True, None, {"a": 1.5}]}' in program
    assert (await output(sys.executable, "-c", program)).startswith(f"You said: {AWKWARD}\n")


async def test_a_wrong_key_is_said_and_the_right_one_stays_in_the_tab_alone(
    new_tab: NewTab, ui_site: Site
) -> None:
    page = await new_tab()
    await page.open(ui_site.url)
    await page.until(
        "document.querySelector('#models-note').textContent.includes('401')", "the refusal"
    )
    await page.fill("#key", KEY)
    await page.press("Tab")
    await has_models(page)
    assert await page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert KEY not in str(
        await page.evaluate("[Object.values(localStorage), document.cookie, location.href]")
    )
    await page.open(ui_site.url)
    await has_models(page)  # the same tab
    other = await new_tab()
    await other.open(ui_site.url)
    await other.until(
        "document.querySelector('#models-note').textContent.includes('401')",
        "another tab to know nothing",
    )
