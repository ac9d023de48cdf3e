"""`gatehook chat MODEL`: a conversation in the terminal, with the gateway that is running, or with one of its own."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import aiohttp

from gatehook.app import Gateway
from gatehook.config.settings import Settings, load
from gatehook.control import ask, control_path
from gatehook.errors import StartupError
from gatehook.serving.server import running
from gatehook.sse import Reader

__all__ = ["chat"]

_PROMPT = "> "


def chat(config: Path | None, model: str, key: str) -> int:
    """Talk until the input ends; returns the exit status.

    From a terminal each line is a turn of the conversation; what is piped in is one prompt.

    Raises:
        StartupError: the settings cannot be served.
    """
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_chat(config, model, key))
    return 130


def _variable(key: str) -> str:
    """The NAME of a key that is given as env:NAME, since other users can see a command's arguments; "" for others.

    Raises:
        StartupError: the variable is not set.
    """
    scheme, _, name = key.partition(":")
    if scheme != "env":
        return ""
    if name not in os.environ:
        raise StartupError(f"--key: the environment variable {name} is not set")
    return name


async def _chat(config: Path | None, model: str, key: str) -> int:
    variable = _variable(key)
    async with _connected(config, variable) as (session, url):
        talk = _Talk(session, url, model, os.environ[variable] if variable else key)
        if not sys.stdin.isatty():
            return 0 if await talk.say(sys.stdin.read(), sys.stdout) else 1
        print(f"You talk to {model}. An empty line, or Ctrl-D, ends it.", file=sys.stderr)
        while line := await _line():
            await talk.say(line, sys.stdout)
        return 0


async def _line() -> str:
    """The line that is typed; "" at the end of the input."""
    try:
        return await asyncio.to_thread(input, _PROMPT)
    except EOFError:
        print(file=sys.stderr)
        return ""


@contextlib.asynccontextmanager
async def _connected(config: Path | None, variable: str) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session with the gateway of these settings, and its URL; if it is not running, one is served here.

    `variable` holds the key, and is no setting.
    """
    settings = load(config, referred=[variable])
    server = settings.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::", "") else server.host  # noqa: S104  # it listens here, too
    port = server.port or (0 if server.uds else await asyncio.to_thread(_chosen_port, settings))
    url = "http://gatehook" if server.uds else f"http://{f'[{host}]' if ':' in host else host}:{port}"
    connector = aiohttp.UnixConnector(server.uds) if server.uds else aiohttp.TCPConnector()
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        if not await _answers(session, url):
            print("No gateway is running: this one serves you alone.", file=sys.stderr)
            alone = {**os.environ, "GATEHOOK_SERVER__PORT": "0", "GATEHOOK_SERVER__HOST": "127.0.0.1"}
            alone |= {"LISTEN_MODE": "TCP", "GATEHOOK_SERVER__WORKERS": "1"}  # TCP, whatever else names a socket
            gateway = Gateway(load(config, environ=alone, referred=[variable]))
            url = await stack.enter_async_context(running(gateway))
            session = await stack.enter_async_context(aiohttp.ClientSession())
        yield session, url


def _chosen_port(settings: Settings) -> int:
    """The port that the system chose for the gateway that runs with these settings, 0 if there is none. Blocks."""
    try:
        said = ask(control_path(settings.path), "address")
    except StartupError:
        return 0
    return urlsplit(said.get("address", "")).port or 0


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=5)):
            return True
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


class _Talk:
    """One conversation."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, key: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._messages: list[dict[str, str]] = []

    async def say(self, text: str, out: TextIO) -> bool:
        """Take a turn, and write the answer as it comes; False if there was none."""
        body = {"model": self._model, "messages": [*self._messages, {"role": "user", "content": text}], "stream": True}
        try:
            answer = await self._answer(body, out)
        except (aiohttp.ClientError, OSError) as error:
            print(f"the line broke: {error}", file=sys.stderr)
            return False
        if answer is None:
            return False
        self._messages = [*body["messages"], {"role": "assistant", "content": answer}]  # type: ignore[misc]
        return True

    async def _answer(self, body: dict[str, Any], out: TextIO) -> str | None:
        said: list[str] = []
        timeout = aiohttp.ClientTimeout(total=None)  # a model may have to be loaded first
        async with self._session.post(self._url, json=body, headers=self._headers, timeout=timeout) as response:
            if response.status != 200:
                print(_fault(await response.read()), file=sys.stderr)
                if response.status == 401:
                    print("Give a key of the gateway: gatehook chat MODEL --key env:NAME", file=sys.stderr)
                return None
            reader = Reader()
            async for data in response.content.iter_any():
                for _, event in reader.feed(data):
                    told = json.loads(event) if event.startswith(b"{") else {}
                    if "error" in told:
                        print(f"\n{told['error']['message']}", file=sys.stderr)
                        return None
                    for choice in told.get("choices", ()):
                        text = choice.get("delta", {}).get("content") or ""
                        said.append(text)
                        print(text, end="", file=out, flush=True)
        print(file=out, flush=True)
        return "".join(said)


def _fault(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:500].decode("utf-8", "replace")
