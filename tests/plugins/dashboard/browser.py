"""A real browser, driven by its own protocol (Chrome DevTools): the Chromium or Chrome of this machine."""

import asyncio
import contextlib
import itertools
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp

__all__ = ["PROGRAM", "Page", "browsing"]

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.faults: list[Any] = []
        """What scripts raised, and what the browser refused; not what the network or a server did."""

    async def command(self, method: str, **parameters: Any) -> Any:
        """What a command of the protocol gives."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while (said := await self._socket.receive_json()).get("id") != number:
            self._hear(said)
        assert "error" not in said, said
        return said["result"]

    def _hear(self, said: Any) -> None:
        entry = said.get("params", {}).get("entry", {})
        is_refusal = entry.get("level") == "error" and entry["source"] != "network"
        if said["method"] == "Runtime.exceptionThrown" or is_refusal:
            self.faults.append(said["params"])

    async def open(self, url: str) -> Self:
        """Go there."""
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")
        await self.command("Page.navigate", url=url)
        return self

    async def value(self, script: str) -> Any:
        """What an expression gives in the page."""
        given = await self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    async def until(self, script: str) -> Any:
        """The first value of an expression that is true; a page that is not there yet has none."""
        while not (found := await self.value(f"(() => {{ try {{ return {script} }} catch {{}} }})()")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return found

    async def text(self, query: str) -> str:
        """What can be read in the first element that there is for a CSS query."""
        said: str = await self.value(f"document.querySelector({query!r}).innerText")
        return said


@contextlib.asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """A browser with an empty page."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        options = (*_OPTIONS, f"--user-data-dir={folder}", "about:blank")
        process = await asyncio.create_subprocess_exec(PROGRAM, *options, stdout=nothing, stderr=pipe)
        try:
            assert process.stderr is not None
            while not (found := re.search(rb"ws://([^/\s]+)/", await process.stderr.readline())):
                assert process.returncode is None
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://{found[1].decode()}/json") as answer:
                    address = next(one for one in await answer.json() if one["type"] == "page")["webSocketDebuggerUrl"]
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.kill()
            await process.wait()
