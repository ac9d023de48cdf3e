"""The suite for caches: what is stored comes back unchanged, to its owners only, and as long as it should."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import aiohttp

from gatehook.accounts import Usage
from gatehook.app import Gateway
from gatehook.config.sections import Section
from gatehook.hookspecs import hookimpl
from gatehook.jsonio import Document
from gatehook.model import Call, Chunk, Completion, Credential, Entry, Principal
from gatehook.protocols import Authenticator, Bounded, Cache
from gatehook.testing import Served, serving
from gatehook.testing.conformance.suite import Suite, check, eventually, expect, not_offered

__all__ = ["CacheConformance"]

PLAIN = Completion(
    raw='{"id": "a",  "odd":\t[1.0, "ü\\u00e9"], "choices": []}'.encode(), usage=Usage(3, 4, 1, 2, 5, True)
)
CHUNKS = (
    Chunk(raw='{"choices":[{"delta":{"role":"assistant","content":"Grü"}}]}'.encode(), content=True),
    Chunk(raw=b'{"choices":[{"delta":{}, "finish_reason":"stop"}]}', finished=True),
    Chunk(raw=b'{"choices":[],"usage":{}}', usage=Usage(1, 2), usage_only=True),
)

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.conformance_people]
[[models]]
name = "m"
vendor = "mock"
options = { text = "Fine." }
"""


class People:
    """Lets in everybody, under the name that the token says."""

    class Settings(Section):
        """[plugins.conformance_people]."""

    def __init__(self, settings: Settings) -> None:
        """There is nothing to set."""

    @hookimpl
    def register_authenticators(self) -> Iterable[Authenticator]:
        """This object."""
        return [self]

    async def authenticate(self, credential: Credential) -> Principal | None:
        """Whoever the token says."""
        return Principal(credential.token or "nobody", key_id=credential.token)


class CacheConformance(Suite):
    """Subclass it; with `settings`, the cache has to keep small answers for everybody."""

    kind: ClassVar[str] = "cache"
    ttl: float | None = None
    """Seconds after which an answer is gone; about one is best. None if `settings` let it live long."""
    shared: bool = False
    """Whether, with `settings`, principals get each other's answers."""

    def cache(self, gateway: Gateway) -> Cache:
        """The cache in question."""
        caches = gateway.pipeline.concerns.answers.caches
        return self.own(caches, "cache")

    def broken(self, gateway: Gateway) -> AbstractAsyncContextManager[None]:
        """While this context is open, the cache's store is away; for caches whose store can be away."""
        not_offered("its store cannot be away, or the suite is not told how")

    def call(self) -> Call:
        """The call whose answer is stored."""
        call = Call("chat", "openai", {}, principal=Principal("ann", key_id="ann-key"), model="m")
        call.body = Document({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        return call

    async def kept(self, cache: Cache, entry: Entry, key: bytes | None = None) -> Entry:
        """Store an entry; returns it as the cache gives it back."""
        place = key or os.urandom(32)
        found: list[Entry] = []

        async def there() -> bool:
            given = await cache.get(place, self.call())
            found.extend([] if given is None else [given])
            return given is not None

        await cache.put(place, self.call(), entry)
        await eventually(there, "what was put is not there")
        return found[0]

    @check("plain answers")
    async def test_a_plain_answer_comes_back_byte_by_byte(self) -> None:
        async with self.running() as gateway:
            entry = await self.kept(self.cache(gateway), Entry(PLAIN))
            expect(entry.completion is not None, "a plain answer comes back as a stream")
            raw, usage = (entry.completion or PLAIN).raw, (entry.completion or PLAIN).usage
            expect(raw == PLAIN.raw, f"the answer comes back as {raw!r}, it was {PLAIN.raw!r}")
            expect(usage == PLAIN.usage, f"its usage comes back as {usage}, it was {PLAIN.usage}")

    @check("streams")
    async def test_a_stream_comes_back_chunk_by_chunk(self) -> None:
        async with self.running() as gateway:
            entry = await self.kept(self.cache(gateway), Entry(chunks=CHUNKS))
            expect(entry.completion is None, "a stream comes back as a plain answer")
            told, put = ([_facts(chunk) for chunk in chunks] for chunks in (entry.chunks, CHUNKS))
            expect(told == put, f"the chunks come back as {told}, they were {put}")

    @check("age and losses")
    async def test_when_it_was_made_and_what_was_lost_come_back_too(self) -> None:
        async with self.running() as gateway:
            entry = await self.kept(self.cache(gateway), Entry(PLAIN, at=1_700_000_000.25, dropped=("seed", "user")))
            expect(abs(entry.at - 1_700_000_000.25) < 0.01, f'"at" comes back as {entry.at}')
            expect(tuple(entry.dropped) == ("seed", "user"), f'"dropped" comes back as {entry.dropped}')

    @check("misses")
    async def test_what_was_never_put_is_not_there(self) -> None:
        async with self.running() as gateway:
            cache, key = self.cache(gateway), bytes(32)
            expect(await cache.get(os.urandom(32), self.call()) is None, "an empty cache has an answer")
            await self.kept(cache, Entry(PLAIN), key)
            for place in (0, 15, 31):  # a cache that shortens keys mixes up answers
                other = bytearray(key)
                other[place] ^= 1
                found = await cache.get(bytes(other), self.call())
                expect(found is None, f"a key that differs in byte {place} gets another's answer")

    @check("replacing")
    async def test_the_last_answer_put_is_the_one_that_holds(self) -> None:
        async with self.running() as gateway:
            cache, key, last = self.cache(gateway), os.urandom(32), Completion(raw=b'{"last":true}')
            await self.kept(cache, Entry(PLAIN), key)
            await cache.put(key, self.call(), Entry(last))

            async def replaced() -> bool:
                entry = await cache.get(key, self.call())
                return entry is not None and entry.completion is not None and entry.completion.raw == last.raw

            await eventually(replaced, "an answer that was put again is still the old one")

    @check("expiry")
    async def test_an_answer_is_gone_when_its_time_is_up(self) -> None:
        if self.ttl is None:
            not_offered("the suite's `ttl` is not set")
        async with self.running() as gateway:
            cache, key = self.cache(gateway), os.urandom(32)
            await self.kept(cache, Entry(PLAIN), key)

            async def gone() -> bool:
                return await cache.get(key, self.call()) is None

            await eventually(gone, f"an answer is there long after its {self.ttl:g} s", self.ttl + 1.5)

    @check("bounds")
    async def test_answers_that_are_too_large_are_not_kept(self) -> None:
        async with self.running() as gateway:
            cache = self.cache(gateway)
            if not isinstance(cache, Bounded):
                not_offered("the cache tells no max_entry")
            large, key = Completion(raw=b'"%b"' % (b"x" * cache.max_entry)), os.urandom(32)
            await cache.put(key, self.call(), Entry(large))
            await self.kept(cache, Entry(PLAIN))  # had the large one been kept, it would be there by now
            expect(await cache.get(key, self.call()) is None, f"an answer of more than {cache.max_entry} bytes is kept")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
        """A whole gateway whose answers are cached."""
        plugins = {**self.plugins, "conformance_people": People}
        async with serving(self.written(SETTINGS), plugins=plugins) as served, aiohttp.ClientSession() as http:
            yield served, http

    async def asked(self, served: Served, http: aiohttp.ClientSession, who: str, **body: object) -> str:
        """Ask as somebody; returns the X-Cache header, and fails the check unless the answer is good."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
        headers = {"Authorization": f"Bearer {who}"}
        async with http.post(f"{served.url}/v1/chat/completions", json=body, headers=headers) as answer:
            text = await answer.text()
            expect(answer.status == 200 and "Fine." in text.replace('"}', ""), f"{who}: {answer.status} {text[:300]}")
            return answer.headers.get("X-Cache", "")

    @check("principals apart")
    async def test_an_answer_is_for_whom_it_belongs_to(self) -> None:
        async with self.serving() as (served, http):
            await self.asked(served, http, "ann")

            async def hit() -> bool:
                return await self.asked(served, http, "ann") == "hit"

            await eventually(hit, "the same request of the same principal is never a hit")
            wanted = "hit" if self.shared else "miss"
            told = await self.asked(served, http, "bob")
            expect(told == wanted, f"another principal's same request is a {told}, not a {wanted}")

    @check("failures")
    async def test_a_store_that_is_away_fails_no_call(self) -> None:
        async with self.serving() as (served, http):
            await self.asked(served, http, "ann")
            async with self.broken(served.gateway):
                for who in ("ann", "bob"):
                    await self.asked(served, http, who)


def _facts(chunk: Chunk) -> tuple[object, ...]:
    return chunk.raw, chunk.content, chunk.finished, chunk.usage, chunk.usage_only
