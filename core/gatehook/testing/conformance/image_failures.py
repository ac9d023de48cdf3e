"""What a vendor of pictures makes of refusals, of jobs that fail, of clients that leave, and of its key."""

import asyncio
from collections.abc import Mapping

from gatehook.testing.conformance.bench import Answer
from gatehook.testing.conformance.image_vendor import ImageBench, ImageSuite
from gatehook.testing.conformance.images import Plan
from gatehook.testing.conformance.script import FAILURES, Failure
from gatehook.testing.conformance.suite import check, expect, not_offered, within

__all__ = ["ImageFailures"]

_BROKEN = Failure("internal", 500, "the sampler broke in step 3")


class ImageFailures(ImageSuite):
    """Errors keep their meaning, cost nothing and hold no secret; and no work is done for clients that have left."""

    withheld: str = ""
    """Why the server's words are kept from clients, if they are. Then they must be in the log."""
    answered: Mapping[str, tuple[int, str | None]] = {}
    """By kind of failure, the status and code for clients, where they are not those of `FAILURES`."""

    @check("errors by class")
    async def test_each_refusal_keeps_its_meaning(self) -> None:
        wrong, tried = [], 0
        for failure, told in FAILURES.items():
            if not self.server().refuses(failure):
                continue
            async with self.bench(Plan("refused", failure)) as bench:
                tried += 1
                answer = await bench.draw()
                found = self._faults(failure, self.answered.get(failure.kind, told), answer, bench)
                wrong += [f"{failure.kind} ({failure.status}): {fault}" for fault in found]
        if not tried:
            not_offered("the stand-in refuses nothing")
        expect(not wrong, "\n".join(wrong))

    def _faults(self, failure: Failure, wanted: tuple[int, str | None], answer: Answer, bench: ImageBench) -> list[str]:
        (status, code), error, faults = wanted, answer.error, []
        if answer.status != status or code not in (None, error.get("code")):
            faults.append(f"the client gets {answer.status} {error.get('code')!r}, expected {status} {code!r}")
        if not self.withheld and failure.message not in str(error.get("message")):
            faults.append(f"the server's words are lost: {error.get('message')!r}")
        if self.withheld and failure.message not in f"{error.get('message')} {bench.log.lines}":
            faults.append("the server's words are neither told nor logged")
        if failure.retry_after is not None and answer.headers.get("Retry-After") != str(failure.retry_after):
            faults.append(f"Retry-After is {answer.headers.get('Retry-After')!r}, not {failure.retry_after}")
        return faults

    @check("failed jobs")
    async def test_a_job_that_fails_is_an_error_and_costs_nothing(self) -> None:
        async with self.bench(Plan("failed", _BROKEN)) as bench:
            answers = [await bench.draw()]
            if self.shows_in_chats:
                answers += [await bench.chat(), await bench.chat(stream=True)]
            for answer in answers:
                expect(not answer.ended_well, f"a job that failed passes for a picture: {answer.body[-300:]!r}")
                told = str(answer.error.get("message"))
                expect(self.claimed.name in told, f"the vendor is not named: {told!r}")
                expect(answer.error.get("code") != "vendor_plugin_error", "the vendor's plugin itself falls over it")
            outcomes = await bench.ended(len(answers))
            charged = [one.usage.images for one in outcomes if one.usage and one.usage.images]
            expect(not charged, f"pictures are charged that nobody got: {charged}")

    @check("secrets")
    async def test_the_key_is_in_no_message_and_no_log(self) -> None:
        """Even if the server quotes it, as some do."""
        self.needs_a_server()
        quoting = f"incorrect API key provided: {self.key}"
        plans = [Plan()]
        plans += [Plan("refused", failure.worded(quoting)) for failure in FAILURES if self.server().refuses(failure)]
        if "failed" in self.server.plays:
            plans.append(Plan("failed", _BROKEN.worded(quoting)))
        shown: list[str] = []
        for plan in plans:
            async with self.bench(plan) as bench:
                answer = await bench.draw()
                asked = [one.path for one in bench.server.requests]
                shown += bench.leaks(self.key, answer, self.vendor(bench.served), asked)
        expect(not shown, f"the deployment's key is shown {' and '.join(dict.fromkeys(shown))}")

    @check("cancellation")
    async def test_a_client_that_leaves_ends_the_server_s_work(self) -> None:
        """A plain request, and for chats also a stream that has begun."""
        async with self.bench("held") as bench:
            await self._left(bench, asyncio.create_task(bench.draw()))
            if self.shows_in_chats:
                await self._left(bench, asyncio.create_task(bench.chat(stream=True)))

    async def _left(self, bench: ImageBench, asking: asyncio.Task[Answer]) -> None:
        server = bench.server
        begun = await within(self.patience, server.begun(len(server.jobs) + 1))
        asking.cancel()
        await asyncio.wait([asking])
        expect(begun, "the server is not even asked")
        await within(self.patience, server.rested())
        expect(
            server.jobs[-1].ended == "stopped",
            f"{self.patience:g} s after its client has left the server still works: nobody told it to stop",
        )
