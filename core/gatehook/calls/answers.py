"""The response caches at work: under which key to look, what the client wants of a cache, and what may be stored."""

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs
from msgspec import Struct, structs
from multidict import MultiMapping

from gatehook.calls.repeats import LONGEST, Repeats
from gatehook.errors import GatewayError, WrongResultError
from gatehook.failures import is_failure
from gatehook.jsonio import encode
from gatehook.model import Call, Chunk, Entry, Frames, Principal
from gatehook.protocols import Bounded, Cache, Scoped

__all__ = ["Answers", "Lookup", "Recording"]

log = logging.getLogger("gatehook")

_FORMAT = b"1"
"""Part of every key. To be changed whenever entries change, so that no gateway reads those of another format."""

_MOST_KNOWN: Final = 1024
"""Requests whose keys are remembered, at most."""

_canonical = msgspec.json.Encoder(order="deterministic").encode

_SPOILT = re.compile(rb'"finish_reason"\s*:\s*"(?:content_filter|error)"')
"""Found in answers that their vendor cut short. Inside a text the quotes would be escaped."""


class Lookup(Struct, frozen=True):
    """What the caches are asked for one call: a key for each, and the client's wishes (RFC 9111, 5.2.1)."""

    keys: tuple[bytes, ...]
    read: bool = True
    only_stored: bool = False
    max_age: float = math.inf
    """Seconds."""


class Recording:
    """Collects a stream for the caches, until it is too large for all of them."""

    __slots__ = ("_batches", "_most", "_size")

    def __init__(self, most: float) -> None:
        """`most`: bytes beyond which no cache keeps it."""
        self._most = most
        self._size = 0
        self._batches: list[Sequence[Chunk]] = []

    def add(self, batch: Sequence[Chunk]) -> None:
        """Take the next batch; frames stay one piece."""
        if self._size > self._most:
            return
        self._size += len(batch.data) if isinstance(batch, Frames) else sum(len(chunk.raw) for chunk in batch)
        self._batches.append(batch)
        if self._size > self._most:
            self._batches = []

    def entry(self) -> Entry | None:
        """The whole stream, once it has ended well; None if it is too large."""
        if self._size > self._most:
            return None
        framed = [batch for batch in self._batches if isinstance(batch, Frames)]
        if framed and len(framed) == len(self._batches):
            return Entry(chunks=framed[0].joined(framed[1:]))
        return Entry(chunks=tuple(chunk for batch in self._batches for chunk in batch))


class Answers:
    """The response caches."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.caches: Final = tuple(caches)
        """All of them, in the operator's order."""
        self._scopes: Sequence[Callable[[Principal], str]] = [
            cache.scope if isinstance(cache, Scoped) else _user for cache in caches
        ]
        self._most = max((one.max_entry if isinstance(one, Bounded) else math.inf for one in caches), default=0)
        self._known: dict[tuple[object, ...], Lookup] = {}
        """The lookups of recent requests, by their bytes: who repeats one request mostly repeats them all."""
        self.repeats = Repeats()
        """What was parsed from requests that were answered from a cache."""

    def key(self, call: Call) -> Lookup | None:
        """What to look for; None if nothing caches, or the client forbids it (`Cache-Control: no-store`).

        Raises:
            GatewayError: the client wants nothing but a stored answer, and forbids to look for one.
            InvalidRequest: the body holds what cannot be decoded.
        """
        if not self.caches or call.operation == "images":  # who asks again wants a new picture; and URLs expire
            return None
        if hdrs.CACHE_CONTROL not in call.headers:
            return self._lookup(call)
        wishes = _directives(call)
        only_stored = "only-if-cached" in wishes
        if "no-store" in wishes:
            if only_stored:
                raise _not_stored()
            return None
        max_age = _seconds(wishes["max-age"]) if "max-age" in wishes else math.inf
        return Lookup(self._lookup(call).keys, "no-cache" not in wishes and max_age > 0, only_stored, max_age)

    def _lookup(self, call: Call) -> Lookup:
        """The lookup for a client without wishes."""
        raw, scopes = call.body.raw, tuple([scope(call.principal) for scope in self._scopes])
        if len(raw) > LONGEST:
            return Lookup(_keys(call, scopes))
        place = (call.operation, call.model, call.stream, call.include_usage, scopes, raw)
        lookup = self._known.get(place)
        if lookup is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            lookup = self._known[place] = Lookup(_keys(call, scopes))
        return lookup

    async def get(self, call: Call, key: Lookup) -> Entry | None:
        """The first hit that the client accepts.

        Raises:
            GatewayError: there is none, and the client wants nothing else (504, as RFC 9111 says).
        """
        if key.read:
            for cache, own in zip(self.caches, key.keys, strict=True):
                try:
                    entry = await cache.get(own, call)
                    if entry is None:
                        continue
                    if not isinstance(entry, Entry):
                        raise WrongResultError(cache, "get", entry, "an Entry or None")
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    log.exception("%s: reading the cache %s failed", call.id, type(cache).__name__)
                    continue
                if key.max_age == math.inf or _age(entry) <= key.max_age:
                    return entry
        if key.only_stored:
            raise _not_stored()
        return None

    def mark(self, call: Call, entry: Entry | None) -> None:
        """Tell the client whether the answer comes from a cache, how old it is, and which parameters it dropped."""
        if entry is None:
            call.answer_lines += "X-Cache: miss\r\n"
        else:
            call.answer_lines += f"X-Cache: hit\r\nAge: {max(0, int(_age(entry)))}\r\n"
            call.dropped = entry.dropped

    def recording(self, key: Lookup | None) -> Recording | None:
        """What to collect a stream in; None if it is not to be stored."""
        return None if key is None else Recording(self._most)

    async def put(self, call: Call, key: Lookup | None, entry: Entry | None) -> None:
        """Store a complete answer in all caches, unless its vendor cut it short, a fallback gave it, or tools were run.

        A fallback's answer will do for the client that waits, not for those who ask when the model is back. And a tool
        may say something else the next time, or do something that has to be done each time.
        """
        if key is None or entry is None or call.served not in ("", call.model) or _is_spoilt(entry):
            return
        # An answer that took several rounds, asks for a decision, or is only a part, is not for others who ask the
        # same; and files that an answer names may be deleted before it expires.
        if call.tool_rounds or call.rounds or call.asked or call.files or call.cut_short:
            return
        entry = structs.replace(entry, at=time.time(), dropped=call.dropped)
        for cache, own in zip(self.caches, key.keys, strict=True):
            try:
                await cache.put(own, call, entry)
            except BaseException as error:
                if not is_failure(error):
                    raise
                log.exception("%s: writing the cache %s failed", call.id, type(cache).__name__)


def _age(entry: Entry) -> float:
    """Seconds since it was stored."""
    return time.time() - entry.at


def _user(principal: Principal) -> str:
    return principal.id


def _keys(call: Call, scopes: Sequence[str]) -> tuple[bytes, ...]:
    """Keys of 32 bytes, equal for callers who ask the same and share answers."""
    digest = _digest(call)
    return tuple([hashlib.sha256(digest + scope.encode("utf-8", "surrogatepass")).digest() for scope in scopes])


def _digest(call: Call) -> bytes:
    """A digest, of 32 bytes, of all that changes the answer.

    Every field of the body counts, even those that hardly change an answer: `user` may tell apart several people behind
    one key, `metadata` and `store` say what the vendor shall keep, and an unknown field may mean anything. The surface
    does not count: what is stored has OpenAI's shape.
    """
    head = encode((call.operation, call.model, call.stream, call.include_usage))
    return hashlib.sha256(b"%b %b %b" % (_FORMAT, head, _text(call))).digest()


def _text(call: Call) -> bytes:
    """The request's body in a form that does not depend on the order of its keys or on white space."""
    payload, raw = call.payload, call.body.raw
    try:
        text = _canonical(payload)
    except (UnicodeEncodeError, OverflowError):  # lone surrogates, numbers of more than 64 bits
        text = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    # If the body has a key twice, the payload holds one value of it, but a vendor that gets the bytes may read the
    # other: such a body is the same as its very bytes only. It shows by a colon too few, unless some are escaped.
    if raw.count(b":") != text.count(b":") or b"\\u003a" in raw or b"\\u003A" in raw:
        return raw
    return text


def _directives(call: Call) -> dict[str, str]:
    """The directives of all `Cache-Control` lines, and their arguments."""
    headers = call.headers
    lines = headers.getall(hdrs.CACHE_CONTROL) if isinstance(headers, MultiMapping) else [headers[hdrs.CACHE_CONTROL]]
    found = (directive.partition("=") for directive in ",".join(lines).lower().split(","))
    return {name.strip(): argument.strip(' \t"') for name, _, argument in found}


def _seconds(text: str) -> float:
    """A directive's number of seconds; 0, the strictest, for anything else."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _is_spoilt(entry: Entry) -> bool:
    if entry.completion is not None:
        return _SPOILT.search(entry.completion.raw) is not None
    if isinstance(entry.chunks, Frames):
        return _SPOILT.search(entry.chunks.data) is not None
    return any(_SPOILT.search(chunk.raw) for chunk in entry.chunks)


def _not_stored() -> GatewayError:
    return GatewayError(
        "there is no stored answer to this request, and Cache-Control: only-if-cached wants no other",
        status=504,
        code="not_cached",
    )
