"""The vendor `cohere`: `/v2/chat`, `/v2/embed` and `/v2/rerank`."""

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
    Vendor,
    decode,
    encode,
    option_faults,
)
from gatehook.legacy import as_chat, chunk_from_chat, from_chat
from gatehook.sse import Event, EventTooLarge, Reader
from gatehook_cohere.answer import Translation, read
from gatehook_cohere.embeddings import Batches
from gatehook_cohere.endpoint import Endpoint, Options
from gatehook_cohere.failure import failure, garbled
from gatehook_cohere.parameters import PARAMETERS
from gatehook_cohere.request import chat_body
from gatehook_cohere.rerank import ranked, rerank_body

__all__ = ["Cohere"]


class Cohere:
    """Translates OpenAI's chats, text completions and embeddings, and rankings, to Cohere's API and back."""

    name: ClassVar[str] = "cohere"
    operations: ClassVar[frozenset[Operation]] = frozenset({"chat", "completions", "embeddings", "rerank"})
    parameters: ClassVar[Mapping[Operation, Mapping[str, Parameter]]] = PARAMETERS

    def __init__(self, egress: Egress, base_url: str) -> None:
        """`base_url` is that of deployments that name none."""
        self._egress = egress
        self._base_url = base_url
        self._endpoints: dict[str, Endpoint] = {}

    async def complete(self, attempt: Attempt) -> Completion:
        """See `Vendor.complete`."""
        operation = attempt.call.operation
        if operation == "embeddings":
            return await self._embed(attempt)
        if operation == "rerank":
            return ranked(attempt, await self._ask(attempt, "rerank", rerank_body(attempt)))
        answer = read(attempt, await self._ask(attempt, "chat", self._chat(attempt)))
        return from_chat(attempt.call, answer) if operation == "completions" else answer

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """See `Vendor.stream`. A read that completes no event gives an empty batch, as a sign of life."""
        legacy = attempt.call.operation == "completions"
        reader, translation = Reader(), Translation(attempt)
        async with await self._send(attempt, "chat", self._chat(attempt)) as upstream:
            if not upstream.is_event_stream:
                raise await failure(upstream, attempt.target)
            async for data in upstream.chunks():
                batch, fault = _taken(translation, reader, data)
                yield [chunk_from_chat(attempt.call, chunk) for chunk in batch] if legacy else batch
                if fault is not None:
                    raise fault
                if translation.done:
                    await upstream.drain()
                    return
            batch, fault = _taken(translation, reader)
            yield [chunk_from_chat(attempt.call, chunk) for chunk in batch] if legacy else batch
            if fault is not None:
                raise fault

    async def probe(self, target: Target) -> None:
        """Ask for one of the models."""
        endpoint = self._endpoint(target)
        async with await self._egress.request(target, "GET", endpoint.models, headers=endpoint.headers) as upstream:
            if upstream.status not in (200, 404, 405, 501):
                raise await failure(upstream, target)
            await upstream.drain()

    def check(self, target: Target) -> Iterable[str]:
        """Faults of one deployment's `options`."""
        return option_faults(target, Options)

    def _chat(self, attempt: Attempt) -> dict[str, Any]:
        payload = as_chat(attempt.payload) if attempt.call.operation == "completions" else attempt.payload
        return chat_body(attempt, payload, self._endpoint(attempt.target).options)

    async def _embed(self, attempt: Attempt) -> Completion:
        batches = Batches(attempt, self._endpoint(attempt.target).options)
        for body in batches.bodies():  # one after another: side by side they would only meet the same limit sooner
            batches.add(len(body["texts"]), await self._ask(attempt, "embed", body))
        return batches.joined()

    async def _ask(self, attempt: Attempt, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with await self._send(attempt, path, body) as upstream:
            raw = await upstream.read()
        try:
            data = decode(raw)
        except MalformedJSON:
            data = None
        if not isinstance(data, dict):
            raise garbled("the answer is no JSON object")
        return data

    async def _send(self, attempt: Attempt, path: str, body: dict[str, Any]) -> Upstream:
        """Send, and give an answer with the status 200.

        Raises:
            GatewayError: it has another.
        """
        target, endpoint = attempt.target, self._endpoint(attempt.target)
        url, headers = endpoint.urls[path], endpoint.headers
        upstream = await self._egress.request(target, "POST", url, headers=headers, body=encode(body))
        if upstream.status == 200:
            return upstream
        async with upstream:
            raise await failure(upstream, target)

    def _endpoint(self, target: Target) -> Endpoint:
        found = self._endpoints.get(target.key)
        # A deployment may change under its key while the gateway runs; then it is another Target.
        if found is None or found.target is not target:
            found = self._endpoints[target.key] = Endpoint(target, self._base_url)
        return found


def _taken(
    translation: Translation, reader: Reader, data: bytes | None = None
) -> tuple[list[Chunk], GatewayError | None]:
    """The chunks that `data` (None is the end) completes, and the error that follows them, if there is one.

    What came before an error, in the same read, still goes to the client.
    """
    batch: list[Chunk] = []
    try:
        events: Iterable[Event] = reader.end() if data is None else reader.feed(data)
        for _, event in events:
            translation.take(event, batch)
    except GatewayError as error:
        return batch, error
    except EventTooLarge as error:
        return batch, garbled(str(error))
    return batch, None


_implements: type[Vendor] = Cohere
