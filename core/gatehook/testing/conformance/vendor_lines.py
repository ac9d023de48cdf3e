"""What a vendor makes of connections that are slow, cut, or bring an answer in odd pieces; and of slow readers."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

from gatehook.calls.attempts import Attempts
from gatehook.errors import GatewayError
from gatehook.jsonio import decode
from gatehook.model import Chunk
from gatehook.testing import Replay, ReplayEgress, Reply, attempt, splits
from gatehook.testing.conformance.bench import MODEL, Answer, Bench
from gatehook.testing.conformance.heard import Heard, from_events
from gatehook.testing.conformance.script import Said
from gatehook.testing.conformance.suite import check, expect, within
from gatehook.testing.conformance.vendor import CALLS, VendorSuite

__all__ = ["VendorLines"]

_SHORT = 0.25
"""Seconds of patience where the upstream is to be too slow."""
_FLOOD = 512
"""Pieces of a large answer …"""
_PIECE = 1 << 16
"""… each of so many bytes."""
_HELD = 20 << 20
"""Bytes that may be buffered for a reader that does not read: above all, by the system at both ends."""


class VendorLines(VendorSuite):
    """No fault of a connection passes for an answer, and nothing is read ahead of a slow reader."""

    @check("slow upstreams")
    async def test_an_upstream_that_says_nothing_or_stops_speaking(self) -> None:
        silent = replace(self.reply(self.plain(self.said())), status=0, end="silence")
        async with self.bench(silent, failover={"first_token_timeout": _SHORT}, timeout=_SHORT) as bench:
            for how, answer in await bench.both(silent, silent if self.script.stream(self.said()) else None):
                expect(
                    answer.status == 504, f"silence before the head, {how}: the client gets {answer.status}, not 504"
                )
        if (act := self.script.stream(self.said())) is not None:
            reply = self.reply(act)
            stopping = replace(reply, body=_pieces(reply)[:-1], end="silence")
            async with self.bench(stopping, failover={"stall_timeout": _SHORT}) as bench:
                answer = await bench.ask(stream=True)
                self._finished_or_broken(answer, "a stream that stops speaking")
                await self._closed(bench)

    async def _closed(self, bench: Bench) -> None:
        closed = await within(5, bench.stub.closed_early.wait())
        expect(closed, "the upstream's connection stays open after its time is up")

    @check("cut upstreams")
    async def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(self) -> None:
        """Cut before the head, in it, in the body, in an event, between two, and without its terminal marker."""
        plain = self.reply(self.plain(self.said()))
        async with self.bench(plain) as bench:
            for where, reply in _cut(plain):
                bench.stub.script(reply)
                answer = await bench.ask()
                expect(answer.status in (502, 503, 504), f"plain, {where}: the client gets {answer.status}, not 502")
            if (act := self.script.stream(self.said())) is None:
                return
            for where, reply in [*_cut(self.reply(act)), *_cut_between(self.reply(act))]:
                bench.stub.script(reply)
                self._finished_or_broken(await bench.ask(stream=True), f"a stream, {where}")

    def _finished_or_broken(self, answer: Answer, what: str) -> None:
        """Check that either the whole answer has arrived, or the client can see that it has not."""
        if answer.status != 200:
            expect(answer.status in (502, 503, 504), f"{what}: the client gets {answer.status}, not 502")
            return
        heard = answer.heard
        whole = heard.text == "".join(self.says) and heard.finish == "stop"
        expect(whole or not answer.ended_well, f"{what}: passes for whole with {heard.said}")
        expect(answer.ended_well or answer.error, f"{what}: the client is not told that the answer broke off")
        expect("".join(self.says).startswith(heard.text), f"{what}: the client hears {heard.text!r}")

    @check("split anywhere")
    async def test_it_does_not_matter_how_a_stream_comes_in_pieces(self) -> None:
        """Cut in two at every byte, and byte by byte: networks do that, even within a character."""
        scenes = [(said, self.script.stream(said)) for said in (self.said(), Said(calls=CALLS, finish="tool_calls"))]
        reply = self.reply(self.stream(self.said()))
        async with self.bench(reply) as bench:
            for said, act in scenes:
                if act is None:
                    continue
                played = self.reply(act)
                whole = await self._played(bench, played, [b"".join(_pieces(played))])
                expect(whole.text == "".join(said.text), f"in one piece, the text is {whole.text!r}")
                for pieces in splits(b"".join(_pieces(played))):
                    heard = await self._played(bench, played, pieces)
                    place = f"cut after byte {len(pieces[0])}" if len(pieces) == 2 else "byte by byte"
                    expect(
                        (heard.said, heard.faults) == (whole.said, []),
                        f"{place} ({pieces[0][-20:]!r} | {pieces[-1][:20]!r}): the client hears {heard.said} "
                        f"{heard.faults or ''}, of the whole {whole.said}",
                    )

    async def _played(self, bench: Bench, reply: Reply, pieces: Sequence[bytes]) -> Heard:
        """What is read from a stream that arrives in these pieces."""
        replay = Replay(pieces, content_type=reply.content_type, headers=reply.headers)
        gateway = bench.served.gateway
        send, gateway.egress.send = gateway.egress.send, ReplayEgress(replay).send  # type: ignore[method-assign]
        try:
            chunks = [chunk async for batch in self._source(bench) for chunk in batch]
        except GatewayError as error:
            return Heard(faults=[error.message])
        finally:
            gateway.egress.send = send  # type: ignore[method-assign]
        return from_events([decode(chunk.raw) for chunk in chunks if not chunk.usage_only], MODEL)

    async def _source(self, bench: Bench) -> AsyncGenerator[Sequence[Chunk], None]:
        """A stream, as the kernel reads it from the vendor."""
        gateway = bench.served.gateway
        attempts = Attempts(gateway.settings.failover, gateway.vendors, gateway.pipeline.concerns.deadlines)
        one = attempt(bench.payload(stream=True), target=bench.target)
        stream = await attempts.stream(one.call, one.target)
        async with contextlib.aclosing(stream):
            for batch in stream.begun:
                yield batch
            async for batch in stream:
                yield batch

    @check("back-pressure")
    async def test_a_slow_reader_makes_the_upstream_wait(self) -> None:
        act = self.reply(self.stream(self.said(text=["x" * _PIECE] * _FLOOD)))
        async with self.bench(act) as bench:
            source = self._source(bench)
            try:
                while not any(chunk.content for chunk in await anext(source)):
                    pass
                await _quiet(bench)
                held = bench.stub.written
            finally:
                await source.aclose()
        expect(
            held < _HELD,
            f"nobody reads, and yet the vendor has taken {held >> 20} MiB of {_FLOOD * _PIECE >> 20}: it reads ahead",
        )


def _pieces(reply: Reply) -> list[bytes]:
    return [reply.body] if isinstance(reply.body, bytes) else list(reply.body)


def _cut(reply: Reply) -> Iterator[tuple[str, Reply]]:
    """The answer, cut where any answer may be cut."""
    body = b"".join(_pieces(reply))
    yield "closed before the head", Reply(status=0, end="cut")
    yield "reset before the head", Reply(status=0, end="reset")
    yield "cut in the head", Reply(b"HTTP/1.1 200 OK\r\nContent-Ty", raw=True, end="cut")
    yield "cut after the head", replace(reply, body=b"", end="cut")
    yield "without a body", replace(reply, body=b"", end="close")
    yield "cut in the body", replace(reply, body=body[: len(body) // 2], end="cut")
    yield "reset in the body", replace(reply, body=body[: len(body) // 2], end="reset")
    yield "ended in the body, as if that were all", replace(reply, body=body[: len(body) // 2], end="close")


def _cut_between(reply: Reply) -> Iterator[tuple[str, Reply]]:
    """A stream that stops after each of its events, and in the middle of each."""
    pieces = _pieces(reply)
    for count in range(1, len(pieces)):
        for end in ("close", "cut"):
            half = pieces[count][: len(pieces[count]) // 2]
            yield f"{end} after event {count}", replace(reply, body=pieces[:count], end=end)
            yield f"{end} in event {count + 1}", replace(reply, body=[*pieces[:count], half], end=end)


async def _quiet(bench: Bench) -> None:
    """Wait until the upstream writes no more, as it cannot, or has written all."""
    before, still = -1, 0
    while still < 3:
        still = still + 1 if bench.stub.written == before else 0
        before = bench.stub.written
        await asyncio.sleep(0.1)
