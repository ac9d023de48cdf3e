"""A gateway with one deployment of the vendor in question, its upstream on a real socket, and a client."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from gatehook.model import Target
from gatehook.testing import Served, StubUpstream
from gatehook.testing.conformance.heard import Heard, from_completion, from_events

__all__ = ["MODEL", "PATIENCE", "Answer", "Bench", "Client", "Log", "logged", "taken"]

MODEL = "conformance"
"""The public name of the deployment."""

PATIENCE = 10.0
"""Seconds after which something counts as hanging."""


@dataclass(frozen=True)
class Answer:
    """What the client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False
    """Whether the line ended before the answer did."""

    @property
    def json(self) -> Any:
        """The body, decoded; {} if it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def error(self) -> Mapping[str, Any]:
        """The error that the client was told, with a status or within a stream; {} if none."""
        said = [self.json] if self.status != 200 else self.events
        return next((one["error"] for one in reversed(said) if isinstance(one, dict) and one.get("error")), {})

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream, without the one that ends it."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ") and line[6:] != b"[DONE]"]
        return [json.loads(line) for line in lines]

    @property
    def ended_well(self) -> bool:
        """Whether a client would take it for a whole answer: a 200, and if it is a stream, with its end."""
        if self.status != 200 or self.cut:
            return False
        return not self.is_stream or self.body.endswith(b"data: [DONE]\n\n")

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of events."""
        return self.headers.get("Content-Type", "").startswith("text/event-stream")

    @property
    def heard(self) -> Heard:
        """What a client makes of it."""
        if not self.is_stream:
            return from_completion(self.json, MODEL)
        return from_events([event for event in self.events if "error" not in event], MODEL)


@dataclass
class Client:
    """A client of a gateway with one deployment."""

    served: Served
    http: aiohttp.ClientSession
    log: "Log"
    patience: float = field(default=PATIENCE, kw_only=True)
    """Seconds after which an answer counts as hanging."""

    @property
    def target(self) -> Target:
        """The deployment."""
        return self.served.gateway.settings.targets[0]

    @asynccontextmanager
    async def posting(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, without what is None in the body; entered when the answer's head has arrived."""
        body = {name: value for name, value in body.items() if value is not None}
        async with self.http.post(f"{self.served.url}/v1/{path}", json=body) as response:
            yield response

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Send a request and take all of the answer, however it ends; one that hangs ends the check."""
        try:
            async with asyncio.timeout(self.patience), self.posting(path, body) as response:
                return await taken(response)
        except TimeoutError:
            pytest.fail(f"{path}: no answer after {self.patience:g} s, and none in sight", pytrace=False)

    def leaks(self, key: str, answer: Answer, vendor: object, asked: Iterable[str]) -> list[str]:
        """The places where a secret key can be read; `asked` are the paths that the upstream was asked for."""
        places = {
            "to the client": f"{answer.body.decode('utf-8', 'replace')} {answer.headers}",
            "in the log": "\n".join(self.log.lines),
            "in the URL, which servers and proxies log": " ".join(asked),
            "in the repr() of the vendor or of what it keeps": f"{vendor!r} {getattr(vendor, '__dict__', '')!r}",
        }
        return [place for place, text in places.items() if key in text]


async def taken(response: aiohttp.ClientResponse) -> Answer:
    """The whole answer, or as much of it as arrives."""
    received, cut = bytearray(), False
    try:
        async for data in response.content.iter_any():
            received += data
    except aiohttp.ClientError:
        cut = True
    return Answer(response.status, response.headers, bytes(received), cut)


@dataclass
class Bench(Client):
    """What the checks of the vendors' suite work with."""

    stub: StubUpstream
    prompt: str

    def payload(self, **more: Any) -> dict[str, Any]:
        """The body of a chat's request."""
        return {"model": MODEL, "messages": [{"role": "user", "content": self.prompt}], **more}

    @asynccontextmanager
    async def asking(self, path: str = "chat/completions", **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; entered when the answer's head has arrived."""
        async with self.posting(path, self.payload(**body)) as response:
            yield response

    async def ask(self, path: str = "chat/completions", **body: Any) -> Answer:
        """Send a request and take all of the answer, however it ends."""
        return await self.post(path, self.payload(**body))

    async def both(self, plain: Any, stream: Any, **body: Any) -> Sequence[tuple[str, Answer]]:
        """The same request plain and streamed, as far as the upstream's replies to it are given."""
        found = []
        for how, reply in (("plain", plain), ("streamed", stream)):
            if reply is not None:
                self.stub.script(reply)
                found.append((how, await self.ask(stream=True if how == "streamed" else None, **body)))
        return found


@dataclass
class Log(logging.Handler):
    """Keeps all that is logged, at every level."""

    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, with its traceback."""
        self.lines.append(self.format(record))

    __hash__ = logging.Handler.__hash__


@contextlib.contextmanager
def logged() -> Iterator[Log]:
    """Keep what the gateway and the plugins log while this context is open."""
    log, root = Log(), logging.getLogger()
    ours = logging.getLogger("gatehook")
    levels = [(logger, logger.level) for logger in (root, ours)]
    root.addHandler(log)
    for logger in (root, ours):
        logger.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(log)
        for logger, level in levels:
            logger.setLevel(level)
