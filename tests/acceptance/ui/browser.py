"""Debian's chromium, without a screen, driven as a person does: keys, clicks, and what is to be
seen on the page.

It is spoken to by its own DevTools protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import json
import os
import tempfile
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.acceptance.processes import until

# https://chromedevtools.github.io/devtools-protocol/tot/Input/#method-dispatchKeyEvent
_CONTROL = 2
_SHIFT = 8
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Space": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-sandbox",  # it refuses to run as root with one, and sees pages of ours only
)


class Page:
    """One tab. `requested`: the addresses that it has asked for; `faults`: what its console says is
    wrong.
    """

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, session: str = "", context: str = ""
    ) -> None:
        self.requested: list[str] = []
        self.faults: list[str] = []
        self.context = context
        self._socket = socket
        self._session = session
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Raises AssertionError for what the browser refuses."""
        number = len(self._waiting)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "sessionId": self._session, "method": method, "params": parameters}
        )
        async with asyncio.timeout(30):
            found = await answer
        assert "error" not in found, f"{method}: {found['error']}"
        result: dict[str, Any] = found["result"]
        return result

    def heard(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._waiting[message["id"]].set_result(message)
            return
        parameters = message["params"]
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if (
                parameters["entry"]["level"] == "error"
                and parameters["entry"]["source"] != "network"
            ):
                self.faults.append(parameters["entry"]["text"])

    async def open(self, url: str) -> None:
        """Returns when the page and its scripts have run."""
        await self.send("Page.navigate", url=url)
        await self.until(
            "document.readyState === 'complete' && location.href !== 'about:blank'",
            f"{url} to be loaded",
        )

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; of a promise what it becomes."""
        found = await self.send(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    async def until(self, expression: str, what: str) -> None:
        """Waits until it is true."""

        async def holds() -> bool:
            return bool(await self.evaluate(expression))

        try:
            await until(holds, what)
        except AssertionError as error:
            seen = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}\n{seen}\n{self.faults}") from None

    async def text(self, selector: str) -> str:
        """What is to be seen of an element; empty if it is hidden."""
        found: str = await self.evaluate(
            f"document.querySelector({json.dumps(selector)}).innerText"
        )
        return found

    async def click(self, selector: str) -> None:
        """With the mouse, where the element is."""
        box = await self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'nearest'});"
            " const at = one.getBoundingClientRect(); return [at.x + at.width / 2, at.y + "
            "at.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    async def press(self, key: str, *, control: bool = False, shift: bool = False) -> None:
        """One key of the keyboard: a name of _KEYS or a letter."""
        code, text = _KEYS.get(key) or (ord(key.upper()), key)
        event = {
            "key": " " if key == "Space" else key,
            "code": key if key in _KEYS else f"Key{key.upper()}",
            "windowsVirtualKeyCode": code,
            "modifiers": _CONTROL * control + _SHIFT * shift,
        }
        if text and not control:
            event["text"] = text
        await self.send("Input.dispatchKeyEvent", type="keyDown", **event)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    async def type(self, text: str) -> None:
        """Into what has the focus, in place of what stands there."""
        await self.evaluate("document.activeElement.select()")
        await self.send("Input.insertText", text=text)

    async def fill(self, selector: str, text: str) -> None:
        await self.click(selector)
        await self.type(text)

    async def looks(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """The size of the window, and what the system says of light and dark."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        """The whole page, also what is below the window."""
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


class Browser:
    """Tabs with nothing in common: each has cookies, storage and permissions of its own."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._root = Page(socket)
        self._pages: dict[str, Page] = {}

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            page = self._pages.get(said.get("sessionId", ""))
            if page is not None:
                page.heard(said)
            elif "id" in said:
                self._root.heard(said)

    async def page(self, **looks: Any) -> Page:
        own = (await self._ask("Target.createBrowserContext"))["browserContextId"]
        target = (await self._ask("Target.createTarget", url="about:blank", browserContextId=own))[
            "targetId"
        ]
        session = (await self._ask("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        page = self._pages[session] = Page(self._socket, session, own)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.send(f"{domain}.enable")
        rights = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        await self._ask("Browser.grantPermissions", permissions=rights, browserContextId=own)
        await page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        await page.looks(**looks)
        return page

    async def close(self, page: Page) -> None:
        await self._ask("Target.disposeBrowserContext", browserContextId=page.context)

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._root.send(method, **parameters)


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Raises AssertionError where it does not come up."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        environment = {**os.environ, "HOME": profile}
        command = ["chromium", *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            told = Path(profile) / "DevToolsActivePort"
            await until(
                lambda: (
                    process.returncode is not None or (told.exists() and "\n" in told.read_text())
                ),
                "chromium",
            )
            assert process.returncode is None, f"chromium ended with status {process.returncode}"
            port, path = told.read_text().split()
            url = f"ws://127.0.0.1:{port}{path}"
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(url, max_msg_size=0) as socket,
            ):
                browser = Browser(socket)
                listening = asyncio.create_task(browser.listen())
                yield browser
                listening.cancel()
        finally:
            process.terminate()
            await process.wait()
