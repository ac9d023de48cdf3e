"""The vendor `ollama`: `/api/chat` and `/api/embed`."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    GatewayError,
    MalformedJSON,
    Operation,
    Parameter,
    Target,
    Upstream,
    UpstreamError,
    Vendor,
    decode,
    encode,
    option_faults,
    read_options,
)
from gatehook.legacy import as_chat, chunk_from_chat, from_chat
from gatehook_ollama.answer import Translation, read
from gatehook_ollama.embeddings import embed_body, embedded
from gatehook_ollama.failure import failure, in_band
from gatehook_ollama.lines import Lines
from gatehook_ollama.options import Options, base
from gatehook_ollama.parameters import PARAMETERS
from gatehook_ollama.request import chat_body

__all__ = ["Ollama"]


class Ollama:
    """Translates OpenAI's chats, text completions and embeddings to Ollama's own API and back."""

    name: ClassVar[str] = "ollama"
    operations: ClassVar[frozenset[Operation]] = frozenset({"chat", "completions", "embeddings"})
    parameters: ClassVar[Mapping[Operation, Mapping[str, Parameter]]] = PARAMETERS

    def __init__(self, egress: Egress, base_url: str, keep_alive: str = "") -> None:
        """`base_url` and `keep_alive` are those of deployments that do not set them."""
        self._egress = egress
        self._base_url = base_url
        self._keep_alive: str | int = _seconds(keep_alive)

    async def complete(self, attempt: Attempt) -> Completion:
        """See `Vendor.complete`."""
        if attempt.call.operation == "embeddings":
            body = embed_body(attempt, read_options(attempt.target, Options))
            return embedded(attempt, await self._ask(attempt, "/api/embed", body), body["input"])
        answer = read(attempt, await self._ask(attempt, "/api/chat", await self._chat(attempt)))
        return from_chat(attempt.call, answer) if attempt.call.operation == "completions" else answer

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """See `Vendor.stream`. A read that completes no line gives an empty batch, as a sign of life."""
        legacy = attempt.call.operation == "completions"
        lines, translation = Lines(), Translation(attempt)
        async with await self._send(attempt, "/api/chat", await self._chat(attempt)) as upstream:
            async for data in upstream.chunks():
                batch, fault = _taken(translation, lines.feed(data))
                yield [chunk_from_chat(attempt.call, chunk) for chunk in batch] if legacy else batch
                if fault is not None:
                    raise fault
                if translation.done:
                    await upstream.drain()
                    return
            batch, fault = _taken(translation, lines.end())
            yield [chunk_from_chat(attempt.call, chunk) for chunk in batch] if legacy else batch
            if fault is not None:
                raise fault

    async def probe(self, target: Target) -> None:
        """Ask for the server's version, which loads no model."""
        url = base(target.base_url or self._base_url) + "/api/version"
        async with await self._egress.request(target, "GET", url, headers=_headers(target)) as upstream:
            if upstream.status != 200:
                raise await failure(upstream, target)
            await upstream.drain()

    def check(self, target: Target) -> Iterable[str]:
        """Faults of one deployment's `options`."""
        return option_faults(target, Options)

    async def _chat(self, attempt: Attempt) -> dict[str, Any]:
        payload = as_chat(attempt.payload) if attempt.call.operation == "completions" else attempt.payload
        return await chat_body(attempt, payload, read_options(attempt.target, Options), self._egress)

    async def _ask(self, attempt: Attempt, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with await self._send(attempt, path, body) as upstream:
            raw = await upstream.read()
        try:
            data = decode(raw)
        except MalformedJSON:
            data = None
        if not isinstance(data, dict):
            raise UpstreamError("ollama: the answer is no JSON object")
        if "error" in data:
            raise in_band(attempt.target, data)
        return data

    async def _send(self, attempt: Attempt, path: str, body: dict[str, Any]) -> Upstream:
        """Send, and give an answer with the status 200.

        Raises:
            GatewayError: it has another.
        """
        target = attempt.target
        told = read_options(target, Options).keep_alive
        keep_alive = _seconds(told) if isinstance(told, str) else told
        if (kept := self._keep_alive if keep_alive is None else keep_alive) != "":
            body["keep_alive"] = kept
        url = base(target.base_url or self._base_url) + path
        upstream = await self._egress.request(target, "POST", url, headers=_headers(target), body=encode(body))
        if upstream.status == 200:
            return upstream
        async with upstream:
            raise await failure(upstream, target)


def _taken(translation: Translation, values: Iterable[Any]) -> tuple[list[Chunk], GatewayError | None]:
    """The chunks of these lines, and the error that follows them, if there is one.

    What came before an error, in the same read, still goes to the client.
    """
    batch: list[Chunk] = []
    try:
        for value in values:
            if not translation.done:
                translation.take(value, batch)
    except GatewayError as error:
        return batch, error
    return batch, None


def _headers(target: Target) -> dict[str, str]:
    """A key is for a proxy in front of the server, or for Ollama's cloud; Ollama itself needs none."""
    headers = {"Content-Type": "application/json"}
    if secret := target.secret():
        headers["Authorization"] = f"Bearer {secret}"
    return headers


def _seconds(text: str) -> str | int:
    """Ollama takes "10m" as a text, but plain seconds only as a number."""
    return int(text) if text.lstrip("-").isdecimal() else text


_implements: type[Vendor] = Ollama
