"""What a vendor of pictures gives when all goes well."""

import asyncio
import itertools

from gatehook import Call, Document, Progress
from gatehook.testing.conformance.bench import MODEL, Answer
from gatehook.testing.conformance.image_vendor import PROMPT, ImageBench, ImageSuite
from gatehook.testing.conformance.images import size_of
from gatehook.testing.conformance.suite import check, expect, not_offered

__all__ = ["ImageAnswers"]

_AT_ONCE = 6


class ImageAnswers(ImageSuite):
    """Pictures arrive as they were made, as many as were asked for, at the client that asked for them."""

    most: int = 3
    """How many pictures one request may ask for; the suite asks for three at most."""
    tells_progress: bool = False
    """Whether it reports the progress of jobs."""

    @check("pictures")
    async def test_a_picture_arrives_as_it_was_made(self) -> None:
        async with self.bench() as bench:
            answer = await bench.draw()
            self._made(bench, self.drawn(answer))
            expect(isinstance(answer.json.get("created"), int), '"created" is no whole number')
            (entry,) = answer.json["data"]
            expect(not entry.get("url"), "there is a URL, though nobody asked for one and nothing keeps files")

    def _made(self, bench: ImageBench, pictures: list[bytes], prompt: str = PROMPT) -> None:
        """Check that these are the pictures that the server has made for the prompt, and no others."""
        prompts = {job.prompt for job in bench.server.jobs}
        expect(all(map(size_of, pictures)), "what arrives is no whole picture in base64")
        if bench.server.jobs:
            expect(prompt in prompts, f"the prompt {prompt!r} is not what the server is asked for: {sorted(prompts)}")
            expect(pictures == bench.made(prompt), "what arrives is not what the server has made, in its order")

    @check("several pictures")
    async def test_as_many_pictures_as_were_asked_for(self) -> None:
        if self.most < 2:
            not_offered("one picture at a time")
        async with self.bench() as bench:
            count = min(self.most, 3)
            pictures = self.drawn(await bench.draw(n=count), count)
            self._made(bench, pictures)
            expect(len(set(pictures)) == count, f"of {count} pictures some are the same")

    @check("sizes")
    async def test_a_picture_has_the_size_that_was_asked_for(self) -> None:
        async with self.bench() as bench:
            for size in ("128x64", "64x192"):
                answer = await bench.draw(size=size)
                if answer.error.get("param") == "size" or "size" in answer.headers.get("X-Gatehook-Dropped-Params", ""):
                    not_offered("its pictures have one size, and it says so")
                (picture,) = self.drawn(answer)
                expect(size_of(picture) == size, f"{size} was asked for, {size_of(picture)} was made")
            self.drawn(await bench.draw(size="auto"))

    @check("pictures by URL")
    async def test_a_picture_is_behind_its_url(self) -> None:
        """With a store of files; without one, a URL of the vendor's own will do, or a refusal before work begins."""
        async with self.bench(keeps_files=True) as bench:
            answer = await bench.draw(response_format="url")
            expect(answer.status == 200, f"ended with {answer.status} {answer.body[-300:]!r}")
            (entry,) = answer.json["data"]
            expect(entry.get("url") and not entry.get("b64_json"), "there is no URL, or base64 beside it")
            self._made(bench, [await bench.fetched(entry["url"])])
        async with self.bench() as bench:
            answer = await bench.draw(response_format="url")
            if answer.status == 200 and (url := answer.json["data"][0].get("url")):
                self._made(bench, [await bench.fetched(url)])
            else:
                told = answer.status, answer.error.get("param")
                expect(told == (400, "response_format"), f"nothing keeps files, and the client gets {told}")
                expect(not bench.server.jobs, "a picture is made though nothing can give it out")

    @check("chats")
    async def test_a_chat_shows_the_picture(self) -> None:
        self._shows_in_chats()
        async with self.bench() as bench:
            answer = await bench.chat()
            self._says(answer)
            self._made(bench, await bench.shown(answer))

    @check("streamed chats")
    async def test_a_streamed_chat_shows_the_picture(self) -> None:
        self._shows_in_chats()
        async with self.bench() as bench:
            answer = await bench.chat(stream=True)
            self._says(answer)
            self._made(bench, await bench.shown(answer))

    def _shows_in_chats(self) -> None:
        if not self.shows_in_chats:
            not_offered("it shows no pictures in chats")
        expect("chat" in self.claimed.operations, '"chat" is not among the vendor\'s operations')

    def _says(self, answer: Answer) -> None:
        expect(answer.ended_well, f"ended with {answer.status} {answer.body[-300:]!r}")
        expect(not answer.heard.faults, "; ".join(answer.heard.faults))
        expect(answer.heard.finish == "stop", f"the finish reason is {answer.heard.finish!r}")

    @check("usage")
    async def test_pictures_are_counted(self) -> None:
        async with self.bench() as bench:
            count = min(self.most, 2)
            self.drawn(await bench.draw(n=count), count)
            counts = [count]
            if self.shows_in_chats:
                for stream in (None, True):
                    self._says(await bench.chat(stream=stream))
                counts += [1, 1]
            told = [one.usage.images if one.usage else None for one in await bench.ended(len(counts))]
            expect(told == counts, f"pictures are accounted as {told}, and were {counts} (plain, chat, streamed chat)")

    @check("progress")
    async def test_progress_goes_on_to_the_end(self) -> None:
        if not self.tells_progress:
            not_offered("it tells no progress")
        told: list[Progress] = []
        async with self.bench() as bench:
            count = min(self.most, 2)
            call = Call("images", "conformance", {}, model=MODEL, choices=count, progress=told.append)
            call.body = Document({"model": MODEL, "prompt": PROMPT, "n": count})
            await bench.served.gateway.run(call)
        fractions = [one.fraction for one in told]
        expect(len(fractions) > 1, "nothing is told before the end")
        expect(fractions[-1] == 1.0, f"it ends at {fractions[-1:]}")
        steps = itertools.pairwise([0.0, *fractions])
        expect(all(before <= after <= 1 for before, after in steps), f"it goes back, or beyond 1: {fractions}")

    @check("many at once")
    async def test_everybody_gets_their_own_picture(self) -> None:
        """Even while other clients leave."""
        async with self.bench() as bench:
            prompts = [f"{PROMPT}, number {number}" for number in range(_AT_ONCE)]
            leaving = [asyncio.create_task(bench.draw(f"{prompt}, unwanted")) for prompt in prompts[:2]]
            asking = [asyncio.create_task(bench.draw(prompt)) for prompt in prompts]
            await asyncio.wait(leaving, timeout=0.05)
            for task in leaving:
                task.cancel()
            await asyncio.wait(leaving)
            for prompt, answer in zip(prompts, await asyncio.gather(*asking), strict=True):
                self._made(bench, self.drawn(answer), prompt)
