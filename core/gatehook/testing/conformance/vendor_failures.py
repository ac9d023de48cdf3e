"""What a vendor gives when its upstream refuses, and secrets that nobody may see."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

from gatehook.testing import Reply
from gatehook.testing.conformance.bench import Answer, Bench
from gatehook.testing.conformance.script import FAILURES, Failure
from gatehook.testing.conformance.suite import check, expect, within
from gatehook.testing.conformance.vendor import VendorSuite

__all__ = ["VendorFailures"]


class VendorFailures(VendorSuite):
    """Errors keep their meaning and hold no secret; and no work is done for clients that have left."""

    patience: float = 2.0
    """Seconds within which the upstream's connection must be closed when the client has left."""
    codes: Mapping[str, str] = {}
    """By kind of failure, codes of the vendor's own that tell clients more than those of `FAILURES`."""

    @check("errors by class")
    async def test_each_error_keeps_its_meaning(self) -> None:
        wrong, tried = [], 0
        for failure in FAILURES:
            act = self.script.failure(failure)
            if act is None:
                continue
            async with self.bench(act) as bench:
                for how, answer in await bench.both(act, act if self.script.stream(self.said()) else None):
                    tried += 1
                    faults = _faults(failure, self.codes.get(failure.kind), answer)
                    wrong += [f"{failure.kind} ({failure.status}), {how}: {fault}" for fault in faults]
        if not tried:
            self.lacks("errors")
        expect(not wrong, "\n".join(wrong))

    @check("errors in a stream")
    async def test_an_error_in_the_middle_of_a_stream(self) -> None:
        for failure in FAILURES:
            if failure.kind in ("overloaded", "internal"):
                act = self.script.failing_stream(self.said(), failure)
                if act is None:
                    self.lacks("errors within a stream")
                async with self.bench(act) as bench:
                    answer = await bench.ask(stream=True)
                    expect(not answer.ended_well, f"{failure.kind}: the stream ends as if nothing were wrong")
                    told = str(answer.error.get("message"))
                    expect(failure.message in told, f"{failure.kind}: the client is told {told!r}")

    @check("secrets")
    async def test_the_key_is_in_no_message_and_no_log(self) -> None:
        """The upstream quotes the key in its error, as OpenAI itself does."""
        wording = f"incorrect API key provided: {self.key}"
        shown: list[str] = []
        quoted = [
            failure.worded(wording) for failure in FAILURES if failure.kind in ("credential", "invalid", "internal")
        ]
        acts = [act for act in map(self.script.failure, quoted) if act is not None]
        if (act := self.script.failing_stream(self.said(), quoted[-1])) is not None:
            acts.append(act)
        for act in [*acts, self.plain(self.said())]:
            self.reply(act)
            async with self.bench(act) as bench:
                for stream in (None, True):
                    answer = await bench.ask(stream=stream)
                    asked = [one.path for one in bench.stub.requests]
                    shown += bench.leaks(self.key, answer, self.vendor(bench.served), asked)
        expect(not shown, f"the deployment's key is shown {' and '.join(dict.fromkeys(shown))}")

    @check("cancellation")
    async def test_a_client_that_leaves_ends_the_upstream_s_work(self) -> None:
        """Both before the answer's head has arrived, and in the middle of a stream."""
        self.reply(self.plain(self.said()))
        silent = Reply(status=0, end="silence")
        async with self.bench(silent) as bench:
            for stream in (None, True):
                await self._left(bench, stream, before_the_head=True)
        act = self.script.stream(self.said())
        if act is not None:
            reply = self.reply(act)
            async with self.bench(replace(reply, body=reply.body[:-1], end="silence")) as bench:
                await self._left(bench, True, before_the_head=False)

    async def _left(self, bench: Bench, stream: bool | None, *, before_the_head: bool) -> None:
        bench.stub.closed_early.clear()
        times = len(bench.stub.requests) + 1

        heard = asyncio.Event()

        async def ask() -> None:
            async with bench.asking(stream=stream) as response:
                while not _has_content(await response.content.readline()):
                    pass
                heard.set()
                await asyncio.Event().wait()

        asking = asyncio.create_task(ask())
        asked = await within(self.patience, bench.stub.asked(times))
        passed_on = before_the_head or await within(self.patience, heard.wait())
        asking.cancel()
        await asyncio.wait([asking])
        expect(asked, "the upstream is not even asked")
        expect(passed_on, "the first words are not passed on while the upstream is still speaking")
        left = await within(self.patience, bench.stub.closed_early.wait())
        where = "before the answer's head" if before_the_head else "in the middle of a stream"
        expect(left, f"{where}: the upstream's connection is open {self.patience:g} s after the client left")


def _has_content(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(line[6:])["choices"])


def _faults(failure: Failure, own: str | None, answer: Answer) -> list[str]:
    status, usual = FAILURES[failure]
    code, error = own or usual, answer.error
    faults = []
    if (answer.status, error.get("code")) != (status, code if code is not None else error.get("code")):
        faults.append(f"the client gets {answer.status} {error.get('code')!r}, expected {status} {code!r}")
    if failure.message not in str(error.get("message")):
        faults.append(f"the upstream's words are lost: {error.get('message')!r}")
    if failure.retry_after is not None and answer.headers.get("Retry-After") != str(failure.retry_after):
        faults.append(f"Retry-After is {answer.headers.get('Retry-After')!r}, the upstream said {failure.retry_after}")
    return faults
