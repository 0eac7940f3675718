"""The page /ui in real Chromium: by keyboard alone, on a phone, in light and dark."""

from pathlib import Path

import pytest

from tests.acceptance.ui.browser import Page
from tests.acceptance.ui.page import ask, has_models, reaches

pytestmark = [pytest.mark.servers, pytest.mark.asyncio(loop_scope="session")]


FIELDS = {"textbox", "combobox", "button", "checkbox", "spinbutton", "link"}


async def focused(page: Page) -> str:
    found: str = await page.evaluate("document.activeElement.id || document.activeElement.tagName")
    return found


async def tab_to(page: Page, wanted: str) -> None:
    """By the Tab key alone. Each stop on the way can be seen (BODY is the browser's own, behind the
    page's end).
    """
    for _ in range(40):
        await page.press("Tab")
        found = await focused(page)
        assert (
            found == "BODY"
            or await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            != "none"
        ), found
        if found == wanted:
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


async def test_the_keyboard_alone_is_enough(page: Page) -> None:
    await page.open(await page.evaluate("location.href"))
    await has_models(page)
    await tab_to(page, "model")
    await page.press("p")  # as in any list: the first that begins so
    assert await page.evaluate("document.querySelector('#model').value") == "parrot"
    await tab_to(page, "user")
    await page.type("by hand")
    await page.press("Enter", control=True)
    await reaches(page, "done")
    assert (await page.text("#answer")).startswith("You said: by hand")
    await tab_to(page, "as-curl")
    await page.press("Space")
    await page.until(
        "document.querySelector('#copied').textContent.startsWith('Copied')", "the copy"
    )
    await tab_to(page, "answer")  # so that a long one can be scrolled
    await tab_to(page, "to-live")
    await page.press("Enter")
    await page.until("!document.querySelector('#views').hidden", "the live view")
    await tab_to(page, "pause")
    await page.press("Enter")
    await page.until("document.querySelector('#live-state').textContent === 'Paused'", "the pause")


# Of each text that is to be seen: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
CONTRASTS = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(colour).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (colour.startsWith("rgb(")) return colour;
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !one.checkVisibility()) continue;
    if (one.closest(":disabled, option, kbd")) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort();
    found.push([(b + 0.05) / (a + 0.05), texts.currentNode.data.trim()]);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)], ids=["desk", "phone"])
async def test_the_page_is_readable_on_a_desk_and_on_a_phone_in_light_and_dark(
    page: Page, width: int, height: int, dark: bool, tmp_path: Path
) -> None:
    await page.looks(width=width, height=height, dark=dark)
    await ask(
        page,
        "echo",
        "A longer line that has to be broken on a phone, and not to push the page wider "
        "than it is. " * 3,
    )
    await reaches(page, "done")
    await page.click("#as-curl")
    for view in ("playground", "live"):
        await page.click(f"#to-{view}")
        await page.until(
            f"!document.querySelector({'#views' if view == 'live' else '#playground'!r}).hidden",
            view,
        )
        await page.screenshot(tmp_path / f"{view}.png")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        contrasts = await page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert [found for found in contrasts if found[0] < 4.5] == []
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 22, 26)") == dark


async def test_light_and_dark_can_be_chosen_and_stay(page: Page) -> None:
    await page.looks(dark=True)
    await page.click("#theme")
    assert await page.text("#theme") == "Theme: light"
    assert (
        await page.evaluate("getComputedStyle(document.body).backgroundColor")
        == "rgb(246, 247, 248)"
    )
    await page.open(await page.evaluate("location.href"))
    assert (
        await page.evaluate("getComputedStyle(document.body).backgroundColor")
        == "rgb(246, 247, 248)"
    )


async def test_every_field_has_a_name_that_is_read_aloud(page: Page) -> None:
    nodes = (await page.send("Accessibility.getFullAXTree"))["nodes"]
    fields = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in FIELDS]
    assert {node["role"]["value"] for node in fields} == FIELDS
    assert [node for node in fields if not node["name"]["value"]] == []
