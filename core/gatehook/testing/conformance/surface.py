"""The suite for surfaces of chats: texts arrive unchanged, errors keep their meaning, and bad requests are refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import aiohttp

from gatehook.testing import serving
from gatehook.testing.conformance.bench import PATIENCE, Answer, taken
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered

__all__ = ["SurfaceConformance"]

MODELS = """
[plugins.route_models]
[plugins.vendor_mock]
[failover]
retries = 0
[[models]]
name = "echo"
vendor = "mock"
options = { mode = "echo", first_delay = 0.005 }
[[models]]
name = "refusing"
vendor = "mock"
options = { fault = { kind = "status", status = 429, retry_after = 7, message = "out of order today" } }
[[models]]
name = "cut"
vendor = "mock"
options = { text = "one two three four five six", fault = { kind = "cut", after = 3 } }
"""
ODD_TEXTS = (
    "Grüße 🌍",
    'say "it"\\',
    "a\n\nb",
    "data: {}\n\ndata: [DONE]\n\n",
    "\r\n: x\r\n\r\nevent: y",
    "\x00\x7f\u2028",
)
ODD_BODIES = (
    *(b"", b"{", b"[]", b"null", b'"x"', b"7", b"\xff\xfe"),
    *(b'{"a": NaN}', b"[" * 100_000, b'{"\xed\xa0\x80": 1}'),
)
ODD_VALUES: Sequence[Any] = (None, True, -1, 1e308, "", "\x00", [], {}, [None], {"a": {}}, [[["x"]]])


class SurfaceConformance(Suite):
    """Subclass it, name the `path`, and say how a client of the dialect asks and what it reads."""

    kind: ClassVar[str] = "surface"
    path: str
    """The path that requests are sent to."""

    def asks(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any] | None:
        """The body of a request; None for a stream if the dialect has no streams."""
        raise NotImplementedError(f"{type(self).__name__}.asks() must say what clients send")

    def text(self, body: bytes, *, stream: bool) -> str:
        """The model's text in an answer with status 200, as far as it has arrived."""
        raise NotImplementedError(f"{type(self).__name__}.text() must say how clients read an answer")

    def error(self, body: bytes, *, stream: bool) -> str:
        """The error's message in an answer; "" if there is none. `stream`: in the middle of a stream."""
        raise NotImplementedError(f"{type(self).__name__}.error() must say how clients read an error")

    @check("plain answers")
    async def test_a_plain_answer(self) -> None:
        async with self.client() as client:
            await self._echoed(client, "Hello, world", stream=False)

    @check("streams")
    async def test_a_stream(self) -> None:
        self._streams()
        async with self.client() as client:
            await self._echoed(client, "Hello, world", stream=True)

    @check("odd texts")
    async def test_whatever_is_said_comes_back_as_it_was(self) -> None:
        async with self.client() as client:
            for text in ODD_TEXTS:
                for stream in self._ways():
                    await self._echoed(client, text, stream=stream)

    @check("many at once")
    async def test_requests_at_the_same_time_get_their_own_answers(self) -> None:
        async with self.client() as client:
            ways = list(self._ways())
            asked = (self._echoed(client, f"number {at}", stream=ways[at % len(ways)]) for at in range(32))
            await asyncio.gather(*asked)

    @check("errors")
    async def test_an_error_is_told_with_its_status_and_its_words(self) -> None:
        async with self.client() as client:
            for model, words in (("refusing", "out of order today"), ("nobody_knows_this", "nobody_knows_this")):
                for stream in self._ways():
                    told = await client.ask(self._body(model, "hi", stream=stream))
                    expect(told.status >= 400, f"{model}: the client gets {told.status}")
                    said = self.error(told.body, stream=False)
                    expect(words in said, f"{model}: the client is told {said!r}, and not {words!r}")
                    if model == "refusing":
                        wait = told.headers.get("Retry-After")
                        expect(wait == "7", f"{model}: Retry-After is {wait!r}, the vendor said 7")

    @check("errors in a stream")
    async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(self) -> None:
        self._streams()
        async with self.client() as client:
            told = await client.ask(self._body("cut", "hi", stream=True))
            said = self.text(told.body, stream=True)
            expect(said and "one two three four five six".startswith(said), f"the client reads {said!r}")
            expect(self.error(told.body, stream=True), "the client is not told that the answer broke off")

    @check("bad requests")
    async def test_what_is_no_request_is_refused_in_the_dialect(self) -> None:
        """Bodies that are not requests; and good ones with a field of another type or left out, which may still do."""
        async with self.client() as client:
            good = dict(self._body("echo", "hi", stream=False))
            changed = [good | {field: value} for field in good for value in ODD_VALUES]
            left_out = [{name: value for name, value in good.items() if name != field} for field in good]
            bodies = [*ODD_BODIES, *(json.dumps(body).encode() for body in (*changed, *left_out))]
            for body in bodies:
                told = await client.ask(body)
                shown = body[:80]
                expect(told.status < 500, f"{shown!r}: the client gets {told.status}, as if the gateway were at fault")
                if body in ODD_BODIES:
                    expect(told.status >= 400, f"{shown!r} is taken for a request")
                expect(told.status < 400 or self.error(told.body, stream=False), f"{shown!r}: no word of what is wrong")

    # --- asking

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        """A client of a gateway that serves the surface, in front of models of the mock vendor."""
        async with serving(self.written(MODELS), plugins=self.plugins) as served, aiohttp.ClientSession() as http:
            yield Client(http, served.url + self.path)

    def _ways(self) -> Iterator[bool]:
        """`stream` False, and True if the dialect has streams."""
        yield False
        if self.asks("echo", "hi", stream=True) is not None:
            yield True

    def _streams(self) -> None:
        if True not in self._ways():
            not_offered("the dialect has no streams")

    def _body(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any]:
        body = self.asks(model, prompt, stream=stream)
        assert body is not None  # one of its ways
        return body

    async def _echoed(self, client: "Client", text: str, *, stream: bool) -> None:
        told, how = await client.ask(self._body("echo", text, stream=stream)), "streamed" if stream else "plain"
        expect(told.status == 200 and not told.cut, f"{how}, {text!r}: ended with {told.status} {told.body[-200:]!r}")
        said = self.text(told.body, stream=stream)
        expect(said == text, f"{how}: of {text!r}, the client reads {said!r}")


@dataclass(frozen=True)
class Client:
    """Posts to one address."""

    http: aiohttp.ClientSession
    url: str

    async def ask(self, body: bytes | Mapping[str, Any]) -> Answer:
        """Send a body and take all of the answer, however it ends."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with asyncio.timeout(PATIENCE), self.http.post(self.url, data=data, headers=headers) as response:
            return await taken(response)
