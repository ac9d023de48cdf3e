"""The suite for vendors that make pictures: one deployment, the author's stand-in for its server, and no network."""

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
    """How the calls ended, as observers are told."""

    async def draw(self, prompt: str = PROMPT, **body: Any) -> Answer:
        """Ask for pictures."""
        return await self.post("images/generations", {"model": MODEL, "prompt": prompt, **body})

    async def chat(self, prompt: str = PROMPT, **body: Any) -> Answer:
        """Ask for a picture in a chat."""
        return await self.post("chat/completions", _chat(prompt, body))

    @asynccontextmanager
    async def asking(self, prompt: str = PROMPT, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for a picture in a chat; entered when the answer's head has arrived."""
        async with self.posting("chat/completions", _chat(prompt, body)) as response:
            yield response

    async def shown(self, answer: Answer) -> list[bytes]:
        """The pictures that the text of a chat's answer shows."""
        return [await self.fetched(url) for url in _SHOWN.findall(answer.heard.text)]

    async def fetched(self, url: str) -> bytes:
        """What the URL of a picture leads to; b"" if it leads nowhere."""
        if url.startswith("data:"):
            return decoded(url.partition(";base64,")[2])
        try:
            async with self.http.get(urljoin(self.served.url, url)) as response:
                return await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, ValueError):
            return b""

    def made(self, prompt: str = PROMPT) -> list[bytes]:
        """All pictures that the server has made for a prompt."""
        return [picture for job in self.server.jobs if job.prompt == prompt for picture in job.pictures]

    async def ended(self, count: int) -> Sequence[Outcome]:
        """How the calls ended, once so many have."""

        async def holds() -> bool:
            return len(self.outcomes) >= count

        await eventually(holds, f"of {count} calls only {len(self.outcomes)} have ended")
        return self.outcomes


def _chat(prompt: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **body}


def decoded(text: Any) -> bytes:
    """The bytes of a text in base64; b"" if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


class ImageSuite(DeploymentSuite):
    """What the checks share. An author subclasses `ImageVendorConformance` and gives `plugin` and `server`."""

    kind: ClassVar[str] = "image vendor"
    server: type[ImageServer]
    """The stand-in for the vendor's server; each check makes a new one."""
    shows_in_chats: bool = False
    """Whether it answers chats, too, with pictures."""
    patience: float = 2.0
    """Seconds within which the server must be told to stop when the client has left."""
    hangs: float = 10.0
    """Seconds after which an answer counts as hanging."""

    def needs_a_server(self) -> None:
        """End the check for vendors that make pictures without a server."""
        if "dead" not in self.server.plays:
            not_offered("it has no server")

    def drawn(self, answer: Answer, count: int = 1) -> list[bytes]:
        """The pictures of an answer, which must be so many."""
        expect(answer.status == 200 and not answer.cut, f"ended with {answer.status} {answer.body[-300:]!r}")
        data = answer.json.get("data") or []
        expect(len(data) == count, f"the client gets {len(data)} pictures of {count}")
        return [decoded(entry.get("b64_json")) for entry in data]

    @asynccontextmanager
    async def bench(
        self, fate: Fate | Plan = "made", *, keeps_files: bool = False, url: str = "", **deployment: Any
    ) -> AsyncIterator[ImageBench]:
        """A gateway with one deployment, at a stand-in with this plan; ends the check if the stand-in cannot play it.

        Args:
            fate: what becomes of the pictures that are asked for.
            keeps_files: whether there is a store of files, for clients that want URLs.
            url: the deployment's `base_url`, instead of the stand-in's.
            deployment: more keys of the deployment's table.
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
    """A plugin that collects the outcomes of calls."""

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
