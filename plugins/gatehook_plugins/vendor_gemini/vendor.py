"""The vendor `gemini`: the Gemini API's generateContent, streamGenerateContent and batchEmbedContents."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    MalformedJSON,
    Operation,
    Parameter,
    Target,
    UpstreamError,
    Vendor,
    decode,
    encode,
    option_faults,
)
from gatehook.legacy import as_chat, chunk_from_chat, from_chat
from gatehook_plugins.vendor_gemini.answer import read_answer
from gatehook_plugins.vendor_gemini.embeddings import Batches
from gatehook_plugins.vendor_gemini.endpoint import Endpoint, Method
from gatehook_plugins.vendor_gemini.failure import WireError, error_in, failure, in_band, not_events
from gatehook_plugins.vendor_gemini.options import Options
from gatehook_plugins.vendor_gemini.parameters import PARAMETERS
from gatehook_plugins.vendor_gemini.request import generate_body
from gatehook_plugins.vendor_gemini.stream import StreamReader

__all__ = ["Gemini"]

_FORMALITIES_SECONDS = 5.0


class Gemini:
    """Translates OpenAI's chats, text completions and embeddings to Gemini and back."""

    name = "gemini"
    operations: frozenset[Operation] = frozenset({"chat", "completions", "embeddings"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = PARAMETERS

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._endpoints: dict[str, Endpoint] = {}

    def check(self, target: Target) -> Sequence[str]:
        """Faults of a deployment's options."""
        return option_faults(target, Options)

    async def complete(self, attempt: Attempt) -> Completion:
        """Make one plain call."""
        if attempt.call.operation == "embeddings":
            return await self._embed(attempt)
        legacy = attempt.call.operation == "completions"
        payload = as_chat(attempt.payload) if legacy else attempt.payload
        body = await generate_body(attempt, payload, self._endpoint(attempt.target).options, self._egress)
        response = await self._post(attempt.target, "generateContent", body)
        try:
            answer = read_answer(attempt, response)
        except WireError as error:
            raise error.named(attempt.target) from None
        return from_chat(attempt.call, answer) if legacy else answer

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """Make one streamed call; a read that completes no event gives an empty batch, as a sign of life."""
        target = attempt.target
        legacy = attempt.call.operation == "completions"
        payload = as_chat(attempt.payload) if legacy else attempt.payload
        endpoint = self._endpoint(target)
        body = encode(await generate_body(attempt, payload, endpoint.options, self._egress))
        url = endpoint.url("streamGenerateContent")
        async with await self._egress.request(target, "POST", url, headers=endpoint.headers, body=body) as upstream:
            if upstream.status != 200:
                raise failure(target, upstream.status, await upstream.read_error(), upstream.retry_after)
            if not upstream.is_event_stream:
                raise not_events(target, upstream.headers.get("Content-Type", ""), await upstream.read_error())
            reader, until, said = StreamReader(attempt), 0.0, False
            while True:
                if ends := reader.complete and said:
                    until = until or asyncio.get_running_loop().time() + _FORMALITIES_SECONDS
                data = await (upstream.receive_last(until) if ends else upstream.receive())
                if not data:
                    break
                if chunks := reader.feed(data):
                    until, said = 0.0, True  # some servers tell the end with every event, or before the first
                yield _batch(attempt, chunks, legacy)
                if reader.fault is not None:
                    raise reader.fault
            if chunks := reader.end():
                yield _batch(attempt, chunks, legacy)
            if reader.fault is not None:
                raise reader.fault

    async def probe(self, target: Target) -> None:
        """Ask for one of the models. A server in front of Gemini's that has no list answers all the same."""
        endpoint = self._endpoint(target)
        async with await self._egress.request(target, "GET", endpoint.models, headers=endpoint.headers) as upstream:
            if upstream.status not in (200, 404, 405, 501):
                raise failure(target, upstream.status, await upstream.read_error(), upstream.retry_after)
            await upstream.drain()

    async def _embed(self, attempt: Attempt) -> Completion:
        batches = Batches(attempt, self._endpoint(attempt.target).options)
        try:
            # One after another: side by side they would only meet the same limit sooner.
            for body in batches.bodies():
                batches.add(len(body["requests"]), await self._post(attempt.target, "batchEmbedContents", body))
            return batches.joined()
        except WireError as error:
            raise error.named(attempt.target) from None

    async def _post(self, target: Target, method: Method, body: Mapping[str, Any]) -> Any:
        endpoint = self._endpoint(target)
        async with await self._egress.request(
            target, "POST", endpoint.url(method), headers=endpoint.headers, body=encode(body)
        ) as upstream:
            if upstream.status != 200:
                raise failure(target, upstream.status, await upstream.read_error(), upstream.retry_after)
            raw = await upstream.read()
        try:
            response = decode(raw)
        except MalformedJSON:
            raise UpstreamError(f"{target.vendor}: the answer is not JSON") from None
        if (error := error_in(response)) is not None:
            raise in_band(target, error)
        return response

    def _endpoint(self, target: Target) -> Endpoint:
        found = self._endpoints.get(target.key)
        # A deployment may change under its key while the gateway runs; then it is another Target.
        if found is None or found.target is not target:
            found = self._endpoints[target.key] = Endpoint(target)
        return found


def _batch(attempt: Attempt, chunks: list[Chunk], legacy: bool) -> Sequence[Chunk]:
    return [chunk_from_chat(attempt.call, chunk) for chunk in chunks] if legacy else chunks


_implements: type[Vendor] = Gemini
