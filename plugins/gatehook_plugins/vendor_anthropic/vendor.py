"""The vendor: one call of Anthropic's Messages API for one attempt."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    GatewayError,
    MalformedJSON,
    Operation,
    Parameter,
    Retry,
    Target,
    TranslatedChunks,
    TranslatedCompletion,
    Upstream,
    UpstreamError,
    Vendor,
    decode,
    encode,
    option_faults,
)
from gatehook.legacy import as_chat, chunk_from_chat, from_chat
from gatehook.sse import Event, EventTooLarge, Reader
from gatehook_plugins.vendor_anthropic import answer, request
from gatehook_plugins.vendor_anthropic.failure import NAME, failure, garbled
from gatehook_plugins.vendor_anthropic.originals import SURFACE, original_answer, original_event
from gatehook_plugins.vendor_anthropic.parameters import tables
from gatehook_plugins.vendor_anthropic.profile import Defaults, Options, Profile, profile
from gatehook_plugins.vendor_anthropic.stream import Translation
from gatehook_plugins.vendor_anthropic.tools import betas

__all__ = ["Anthropic"]


class Anthropic:
    """Chats, and text completions made of one message, at Anthropic's Messages API."""

    name: ClassVar[str] = NAME
    operations: ClassVar[frozenset[Operation]] = frozenset({"chat", "completions"})

    def __init__(self, egress: Egress, defaults: Defaults, *, forward_user: bool = False) -> None:
        self.parameters: Mapping[Operation, Mapping[str, Parameter]] = tables(forward_user=forward_user)
        self._egress = egress
        self._defaults = defaults
        self._profiles: dict[str, Profile] = {}

    def check(self, target: Target) -> Sequence[str]:
        """Faults of a deployment's options."""
        return option_faults(target, Options)

    async def complete(self, attempt: Attempt) -> Completion:
        """See `Vendor.complete`."""
        async with await self._send(attempt) as upstream:
            body = await (upstream.read() if upstream.status == 200 else upstream.read_error())
        try:
            data = decode(body) if upstream.status == 200 else None
        except MalformedJSON:
            data = None
        if not isinstance(data, dict) or "error" in data or data.get("type") == "error":
            raise failure(upstream, body, attempt.target)
        call = attempt.call
        completion = answer.read(call, data, attempt.note)
        if call.surface == SURFACE:
            return TranslatedCompletion(completion, original_answer(call, data), SURFACE)
        return from_chat(call, completion) if call.operation == "completions" else completion

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """See `Vendor.stream`. A read that completes no event, or only pings, gives no chunks: no stall."""
        async with await self._send(attempt) as upstream:
            if upstream.status != 200 or not upstream.is_event_stream:
                raise failure(upstream, await upstream.read_error(), attempt.target)
            call, told = attempt.call, list[Event]()
            reader, translation = Reader(), Translation(call, attempt.target, attempt.note)
            legacy = call.operation == "completions"
            while not translation.done:
                try:
                    batch, fault = _taken(translation, reader, await upstream.receive(), told)
                except GatewayError as error:
                    batch, fault = [], error
                if fault is not None:
                    batch += translation.owed()
                if call.surface == SURFACE:
                    batch = TranslatedChunks(batch, b"".join([original_event(call, event) for event in told]), SURFACE)
                yield [chunk_from_chat(call, chunk) for chunk in batch] if legacy else batch
                if fault is not None:
                    raise fault
                told.clear()
            await upstream.drain()

    async def probe(self, target: Target) -> None:
        """Ask for one of the models. A server in front of Anthropic's that has no list answers all the same."""
        found = self._profile(target)
        url = found.url.with_name("models").with_query(limit=1)
        async with await self._egress.request(target, "GET", url, headers=found.headers) as upstream:
            if upstream.status not in (200, 404, 405, 501):
                raise failure(upstream, await upstream.read_error(), target)
            await upstream.drain()

    async def _send(self, attempt: Attempt) -> Upstream:
        found = self._profile(attempt.target)
        payload = attempt.payload
        if attempt.call.operation == "completions":
            payload = as_chat(payload)
        body = request.write(payload, attempt, found)
        headers = found.headers_with(betas(body.get("tools", ())))
        return await self._egress.request(attempt.target, "POST", found.url, headers=headers, body=encode(body))

    def _profile(self, target: Target) -> Profile:
        found = self._profiles.get(target.key)
        if found is None or found.target is not target:
            found = self._profiles[target.key] = profile(target, self._defaults)
        return found


def _taken(
    translation: Translation, reader: Reader, data: bytes, told: list[Event]
) -> tuple[list[Chunk], GatewayError | None]:
    """The chunks of what has arrived (b"" is the end), and the error that follows them, if there is one.

    What came before an error, in the same read, still goes to the client: `told` gets the events that were translated.
    """
    batch: list[Chunk] = []
    try:
        for event in reader.feed(data) if data else reader.end():
            if translation.done:
                break
            translation.take(event, batch)
            told.append(event)
    except GatewayError as error:
        return batch, error
    except EventTooLarge as error:
        return batch, UpstreamError(f"{NAME}: {error}", retry=Retry.NEXT)
    if not (data or translation.done):
        return batch, garbled("the stream ended before message_stop")
    return batch, None


_implements: type[Vendor] = Anthropic
