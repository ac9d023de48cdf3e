"""The suite for vendors of pictures bites: each of these vendors has one fault, and is caught by the checks for it.

Their server (`picture_jobs`) is one of jobs: begun by a request, asked for until they are over, fetched picture by
picture, and deleted.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar

import pytest

from gatehook import (
    FILES,
    Attempt,
    Chunk,
    Completion,
    Egress,
    FileStore,
    Gateway,
    GatewayError,
    InvalidRequest,
    MalformedJSON,
    Operation,
    Parameter,
    Picture,
    Progress,
    Section,
    StreamBuilder,
    UpstreamError,
    Usage,
    Vendor,
    completion,
    decode,
    dropped,
    encode,
    hookimpl,
    mapped,
    picture_url,
    pictures_answer,
    refused,
    upstream_error,
    wants_urls,
)
from gatehook.testing.conformance import ImageServer, ImageVendorConformance

IMAGES = {
    "model": mapped("model"),
    "prompt": mapped("words"),
    "n": mapped("count"),
    "size": mapped("size"),
    "response_format": mapped("what the client gets"),
    "seed": mapped("seed"),
    "user": dropped("no counterpart"),
    "background": refused("pictures have one"),
}


class Specimen:
    """A vendor without a fault. Those that have one override what is wrong with them."""

    caught: ClassVar[set[str]] = set()
    """The checks that must find what is wrong with it."""
    name = "specimen"
    operations: frozenset[Operation] = frozenset({"chat", "images"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {"images": IMAGES}
    pause = 0.005

    def __init__(self, egress: Egress, files: FileStore | None) -> None:
        self.egress, self.files = egress, files

    async def complete(self, attempt: Attempt) -> Completion:
        if attempt.call.operation == "chat":
            message = {"role": "assistant", "content": await self.shown(attempt)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return completion(attempt.call, [choice], self.usage(1))
        self.wanted(attempt)
        pictures = [Picture(data) for data in await self.drawn(attempt)]
        return await self.answer(attempt, pictures)

    def wanted(self, attempt: Attempt) -> None:
        wants_urls(attempt.call, self.files)

    async def answer(self, attempt: Attempt, pictures: list[Picture]) -> Completion:
        return await pictures_answer(attempt.call, pictures, self.files, usage=self.usage(len(pictures)))

    def usage(self, count: int) -> Usage:
        return Usage(images=count)

    async def stream(self, attempt: Attempt) -> AsyncIterator[list[Chunk]]:
        builder = StreamBuilder(attempt.call)
        shown = await self.shown(attempt)
        yield [builder.text(shown), builder.finish("stop"), builder.usage(self.usage(1))]

    async def shown(self, attempt: Attempt) -> str:
        (data,) = await self.drawn(attempt)
        if self.files is not None:
            return f"![picture]({await picture_url(attempt.call, Picture(data), self.files)})"
        return f"![picture](data:image/png;base64,{base64.b64encode(data).decode()})"

    async def drawn(self, attempt: Attempt) -> list[bytes]:
        """All of one job."""
        name = (await self.told(attempt, "POST", "/jobs", self.body(attempt)))["job"]
        try:
            names = await self.ended(attempt, name)
            if not names:
                raise UpstreamError("specimen: the job has made no picture")
            return [await self.fetched(attempt, f"/pictures/{one}") for one in names]
        except BaseException:
            await self.given_up(attempt, name)
            raise

    def body(self, attempt: Attempt) -> dict[str, Any]:
        asked = attempt.payload
        words = asked["messages"][-1]["content"] if attempt.call.operation == "chat" else asked["prompt"]
        return {"words": words, "count": asked.get("n", 1), "size": self.size(asked), "seed": asked.get("seed")}

    def size(self, asked: Mapping[str, Any]) -> str:
        size: str = asked.get("size", "auto")
        return "" if size == "auto" else size

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        while True:
            state = await self.told(attempt, "GET", f"/jobs/{name}")
            self.progressed(attempt, state["done"])
            if "failed" in state:
                raise self.failed(attempt, 500, state["failed"], None)
            if "pictures" in state:
                return list(state["pictures"])
            await asyncio.sleep(self.pause)

    def progressed(self, attempt: Attempt, done: float) -> None:
        if attempt.call.progress is not None:
            attempt.call.progress(Progress(done))

    async def given_up(self, attempt: Attempt, name: str) -> None:
        with contextlib.suppress(GatewayError):
            await self.asked(attempt, "DELETE", f"/jobs/{name}")

    async def fetched(self, attempt: Attempt, path: str) -> bytes:
        return await self.asked(attempt, "GET", path)

    async def told(self, attempt: Attempt, method: str, path: str, body: Any = None) -> dict[str, Any]:
        try:
            state = decode(await self.asked(attempt, method, path, body))
        except MalformedJSON:
            raise UpstreamError("specimen: what came is not its dialect") from None
        if not isinstance(state, dict):
            raise UpstreamError("specimen: what came is not its dialect")
        return state

    async def asked(self, attempt: Attempt, method: str, path: str, body: Any = None) -> bytes:
        target = attempt.target
        headers = {"Content-Type": "application/json", "X-Key": target.secret()}
        data = None if body is None else encode(body)
        url = target.base_url + self.at(attempt, path)
        async with await self.egress.request(target, method, url, headers=headers, body=data) as upstream:
            if upstream.status == 200:
                return await upstream.read()
            said = (await upstream.read_error()).decode("utf-8", "replace")
            raise self.failed(attempt, upstream.status, said, upstream.retry_after)

    def at(self, attempt: Attempt, path: str) -> str:
        return path

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        secrets = attempt.target.secrets()
        return upstream_error("specimen", status, said, retry_after=retry_after, secrets=secrets)


def suite_of(vendor: type[Specimen], stand_in: type[ImageServer]) -> ImageVendorConformance:
    """The suite with a plugin that has this vendor."""

    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
            return [vendor(gateway.egress, gateway.services.get(FILES))]

    class Suite(ImageVendorConformance):
        plugin = "specimen"
        plugin_class = Plugin
        server = stand_in
        shows_in_chats = True
        tells_progress = True
        patience = 0.5
        hangs = 1.0
        budget = 0.06

    return Suite()


# --- the faults ----------------------------------------------------------------------------------------------------


class TextOfAPicture(Specimen):
    caught: ClassVar[set[str]] = {"pictures", "several pictures", "sizes", "many at once"}

    async def answer(self, attempt: Attempt, pictures: list[Picture]) -> Completion:
        whole = await super().answer(attempt, pictures)
        for entry in whole.data["data"]:
            if "b64_json" in entry:
                entry["b64_json"] = f"data:image/png;base64,{entry['b64_json']}"
        return Completion(whole.data, usage=whole.usage)


class TheSameTwice(Specimen):
    caught: ClassVar[set[str]] = {"several pictures"}

    async def fetched(self, attempt: Attempt, path: str) -> bytes:
        return await super().fetched(attempt, path.partition("-")[0] + "-0")


class OneSizeOnly(Specimen):
    caught: ClassVar[set[str]] = {"sizes"}

    def size(self, asked: Mapping[str, Any]) -> str:
        return ""


class NeverAURL(Specimen):
    caught: ClassVar[set[str]] = {"pictures by URL"}

    async def answer(self, attempt: Attempt, pictures: list[Picture]) -> Completion:
        data = [{"b64_json": base64.b64encode(picture.data).decode()} for picture in pictures]
        return Completion({"created": 1_700_000_000, "data": data}, usage=self.usage(len(pictures)))


class RefusesTooLate(Specimen):
    caught: ClassVar[set[str]] = {"pictures by URL"}

    def wanted(self, attempt: Attempt) -> None:
        """Only when the pictures are made."""


class ShowsTheServer(Specimen):
    caught: ClassVar[set[str]] = {"chats", "streamed chats"}

    async def shown(self, attempt: Attempt) -> str:
        await super().shown(attempt)
        return f"![picture]({attempt.target.base_url}/pictures/0)"


class NoEnd(Specimen):
    caught: ClassVar[set[str]] = {"streamed chats", "usage"}

    async def stream(self, attempt: Attempt) -> AsyncIterator[list[Chunk]]:
        builder = StreamBuilder(attempt.call)
        yield [builder.text(await self.shown(attempt)), builder.usage(self.usage(1))]


class CountsAnswers(Specimen):
    caught: ClassVar[set[str]] = {"usage"}

    def usage(self, count: int) -> Usage:
        return Usage(images=1)


class BackAndForth(Specimen):
    caught: ClassVar[set[str]] = {"progress"}

    def progressed(self, attempt: Attempt, done: float) -> None:
        super().progressed(attempt, min(done + 0.3, 1.0))
        super().progressed(attempt, done)


class OneJobForAll(Specimen):
    caught: ClassVar[set[str]] = {"many at once"}

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        self.last = name
        await asyncio.sleep(self.pause)
        return await super().ended(attempt, self.last)


class AllErrorsAlike(Specimen):
    caught: ClassVar[set[str]] = {"errors by class"}

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        return UpstreamError(str(super().failed(attempt, status, said, retry_after)))


class FailuresArePictures(Specimen):
    caught: ClassVar[set[str]] = {"failed jobs"}

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        try:
            return await super().ended(attempt, name)
        except UpstreamError as error:
            if "sampler" in error.message:
                return ["sorry"]
            raise

    async def fetched(self, attempt: Attempt, path: str) -> bytes:
        return b"sorry" if path.endswith("sorry") else await super().fetched(attempt, path)


class KeyInTheURL(Specimen):
    caught: ClassVar[set[str]] = {"secrets"}

    def at(self, attempt: Attempt, path: str) -> str:
        return f"{path}?key={attempt.target.secret()}"


class QuotesTheKey(Specimen):
    caught: ClassVar[set[str]] = {"secrets"}

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        return upstream_error("specimen", status, said, retry_after=retry_after)


class LetsItWork(Specimen):
    caught: ClassVar[set[str]] = {"cancellation", "slow upstreams"}

    async def given_up(self, attempt: Attempt, name: str) -> None:
        """Somebody will see to it."""


class AsksForEver(Specimen):
    caught: ClassVar[set[str]] = {"servers away", "servers lost"}

    async def told(self, attempt: Attempt, method: str, path: str, body: Any = None) -> dict[str, Any]:
        while True:
            try:
                return await super().told(attempt, method, path, body)
            except UpstreamError as error:
                if "connect" not in error.message:
                    raise
                await asyncio.sleep(self.pause)


class FallsOverALostServer(Specimen):
    caught: ClassVar[set[str]] = {"servers lost"}

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        try:
            return await super().ended(attempt, name)
        except UpstreamError as error:
            if "connect" in error.message:
                raise KeyError(name) from None
            raise


class HalfWillDo(Specimen):
    caught: ClassVar[set[str]] = {"cut upstreams"}

    async def fetched(self, attempt: Attempt, path: str) -> bytes:
        try:
            return await super().fetched(attempt, path)
        except UpstreamError:
            return b"half a picture"


class TrustsWhatComes(Specimen):
    caught: ClassVar[set[str]] = {"odd answers"}

    async def told(self, attempt: Attempt, method: str, path: str, body: Any = None) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(await self.asked(attempt, method, path, body))
        return state


class NothingIsSomething(Specimen):
    caught: ClassVar[set[str]] = {"no pictures"}

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        return await super().ended(attempt, name) or ["nothing"]

    async def fetched(self, attempt: Attempt, path: str) -> bytes:
        return b"" if path.endswith("nothing") else await super().fetched(attempt, path)


class HasNoTime(Specimen):
    caught: ClassVar[set[str]] = {"slow upstreams"}

    async def ended(self, attempt: Attempt, name: str) -> list[str]:
        async with asyncio.timeout(0.2):
            return await super().ended(attempt, name)


class ForgetsTheSeed(Specimen):
    caught: ClassVar[set[str]] = {"parameters"}

    def body(self, attempt: Attempt) -> dict[str, Any]:
        return {**super().body(attempt), "seed": None}


class SaysNothingOfDrops(Specimen):
    caught: ClassVar[set[str]] = {"parameters"}
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}


class RefusesTheSeed(Specimen):
    caught: ClassVar[set[str]] = {"parameters"}

    def body(self, attempt: Attempt) -> dict[str, Any]:
        if "seed" in attempt.payload:
            raise InvalidRequest("seed: not today", param="seed")
        return super().body(attempt)


class Slow(Specimen):
    caught: ClassVar[set[str]] = {"latency"}

    async def drawn(self, attempt: Attempt) -> list[bytes]:
        await asyncio.sleep(0.08)
        return await super().drawn(attempt)


FAULTS = [
    TextOfAPicture, TheSameTwice, OneSizeOnly, NeverAURL, RefusesTooLate, ShowsTheServer, NoEnd, CountsAnswers,
    BackAndForth, OneJobForAll, AllErrorsAlike, FailuresArePictures, KeyInTheURL, QuotesTheKey, LetsItWork,
    AsksForEver, FallsOverALostServer, HalfWillDo, TrustsWhatComes, NothingIsSomething, HasNoTime, ForgetsTheSeed,
    SaysNothingOfDrops, RefusesTheSeed, Slow,
]  # fmt: skip
LONG = {"servers lost", "servers away", "slow upstreams", "cancellation", "errors by class", "latency", "secrets"}


async def test_a_sound_vendor_passes_every_check(picture_jobs: type[ImageServer], failing: Any) -> None:
    assert await failing(suite_of(Specimen, picture_jobs)) == {}


@pytest.mark.parametrize("vendor", FAULTS)
async def test_a_fault_is_caught_by_the_checks_meant_for_it(
    vendor: Any, picture_jobs: type[ImageServer], failing: Any
) -> None:
    found = await failing(suite_of(vendor, picture_jobs), without=LONG - vendor.caught)
    assert set(found) == vendor.caught, found


def test_there_is_a_fault_for_every_check(capabilities: Any) -> None:
    assert set().union(*(vendor.caught for vendor in FAULTS)) == set(capabilities(ImageVendorConformance))
