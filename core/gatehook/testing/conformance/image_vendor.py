"""The suite for vendors that make pictures: one deployment, a stand-in for its server by the author, and no network."""

import base64
import binascii
import re
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urljoin

import aiohttp

from gatehook import Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import serving
from gatehook.testing.conformance.bench import MODEL, Answer, Client, logged
from gatehook.testing.conformance.deployment import DeploymentSuite
from gatehook.testing.conformance.images import Fate, ImageServer, Plan
from gatehook.testing.conformance.suite import eventually, expect, not_offered

__all__ = ["PROMPT", "ImageBench", "ImageSuite"]

PROMPT = "a lighthouse at dusk, in oil"
_SHOWN = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
"""A picture in a text, as Markdown shows it."""


@dataclass
class ImageBench(Client):
    """What a check works with."""

    server: ImageServer
    outcomes: Sequence[Outcome]
    """What became of the calls, as plugins are told."""

    async def draw(self, prompt: str = PROMPT, **body: Any) -> Answer:
        """Ask for pictures."""
        return await self.post("images/generations", {"model": MODEL, "prompt": prompt, **body})

    async def chat(self, prompt: str = PROMPT, **body: Any) -> Answer:
        """Ask for a picture in a chat."""
        return await self.post("chat/completions", _chat(prompt, body))

    @asynccontextmanager
    async def asking(self, prompt: str = PROMPT, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a picture in a chat; the answer's head has come."""
        async with self.posting("chat/completions", _chat(prompt, body)) as response:
            yield response

    async def shown(self, answer: Answer) -> list[bytes]:
        """The pictures that a chat's answer shows in its text."""
        return [await self.fetched(url) for url in _SHOWN.findall(answer.heard.text)]

    async def fetched(self, url: str) -> bytes:
        """What is behind the URL of a picture; b"" if nothing is."""
        if url.startswith("data:"):
            return decoded(url.partition(";base64,")[2])
        try:
            async with self.http.get(urljoin(self.served.url, url)) as response:
                return await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, ValueError):
            return b""

    def made(self, prompt: str = PROMPT) -> list[bytes]:
        """All that the server made for a prompt."""
        return [picture for job in self.server.jobs if job.prompt == prompt for picture in job.pictures]

    async def ended(self, count: int) -> Sequence[Outcome]:
        """What became of the calls, once there are so many."""

        async def holds() -> bool:
            return len(self.outcomes) >= count

        await eventually(holds, f"of {count} calls only {len(self.outcomes)} have ended")
        return self.outcomes


def _chat(prompt: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **body}


def decoded(text: Any) -> bytes:
    """What a text in base64 stands for; b"" if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


class ImageSuite(DeploymentSuite):
    """What the checks share. An author subclasses `ImageVendorConformance` and gives `plugin` and `server`."""

    kind: ClassVar[str] = "image vendor"
    server: type[ImageServer]
    """The stand-in for its server; a new one for each check."""
    shows_in_chats: bool = False
    """Whether its answers to chats are pictures, too."""
    patience: float = 2.0
    """Seconds within which the server is told when the client has left."""
    hangs: float = 10.0
    """Seconds after which an answer is taken to hang."""

    def needs_a_server(self) -> None:
        """End the check for vendors that make their pictures themselves."""
        if "dead" not in self.server.plays:
            not_offered("it has no server")

    def drawn(self, answer: Answer, count: int = 1) -> list[bytes]:
        """The pictures of an answer that is to have so many."""
        expect(answer.status == 200 and not answer.cut, f"ended with {answer.status} {answer.body[-300:]!r}")
        data = answer.json.get("data") or []
        expect(len(data) == count, f"the client gets {len(data)} pictures of {count}")
        return [decoded(entry.get("b64_json")) for entry in data]

    @asynccontextmanager
    async def bench(
        self, fate: Fate | Plan = "made", *, keeps_files: bool = False, url: str = "", **deployment: Any
    ) -> AsyncIterator[ImageBench]:
        """A gateway with one deployment at a stand-in that does so; ends the check if it cannot.

        Args:
            fate: what becomes of what is asked for.
            keeps_files: whether there is a store of files, for clients that want URLs.
            url: instead of the stand-in's.
            deployment: what else the deployment's table has.
        """
        server = self.server()
        server.plan = fate if isinstance(fate, Plan) else Plan(fate)
        if server.plan.fate not in server.plays:
            not_offered(f"the stand-in cannot be made to play {server.plan.fate!r}")
        outcomes: list[Outcome] = []
        plugins = ["[plugins.openai_api]", "[plugins.images_api]", "[plugins.route_models]", f"[plugins.{_WATCH}]"]
        with logged() as log, tempfile.TemporaryDirectory() as folder:
            if keeps_files:
                plugins.append(f"[plugins.files]\ndirectory = '{folder}/files'")
            async with server.serving(), aiohttp.ClientSession() as http:
                options = {**self.options, **server.options()}
                settings = self.serving_one(url or server.url, options, deployment, plugins=plugins)
                async with serving(settings, plugins={**self.plugins, _WATCH: _watching(outcomes)}) as served:
                    yield ImageBench(served, http, log, server, outcomes, patience=self.hangs)


_WATCH = "conformance_watch"


def _watching(outcomes: list[Outcome]) -> type:
    """A plugin that notes what becomes of calls."""

    class Watcher(Observer):
        def finished(self, call: Call, outcome: Outcome) -> None:
            outcomes.append(outcome)

    class Watch:
        Settings = Section

        def __init__(self, settings: Section) -> None: ...

        @hookimpl
        def register_observers(self) -> Iterable[Observer]:
            return [Watcher()]

    return Watch
