"""POST /v1/images/generations, for OpenAI's own client and for every vendor."""

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import openai
import pytest

from gatehook import Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import Reply, StubUpstream

House = Any
MOCK = '[[models]]\nname = "m"\nvendor = "mock"\npricing = { per_image = 0.04 }\n'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
B64 = base64.b64encode(PNG).decode()


def size_of(png: bytes) -> tuple[int, int]:
    """The size of a whole, sound picture."""
    place, data, width, height = 8, b"", 0, 0
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        body = png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length)[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        width, height = struct.unpack_from(">II", body) if kind == b"IHDR" else (width, height)
        place += 12 + length
    assert len(zlib.decompress(data)) == ((width + 7) // 8 + 1) * height
    return width, height


class Watch:
    """A plugin that keeps what becomes of each call."""

    Settings = Section
    outcomes: ClassVar[list[tuple[Call, Outcome]]] = []

    def __init__(self, settings: Section) -> None:
        self.kept: list[tuple[Call, Outcome]] = []
        type(self).outcomes = self.kept

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        kept = self.kept

        class Watcher(Observer):
            def finished(self, call: Call, outcome: Outcome) -> None:
                kept.append((call, outcome))

        return [Watcher()]


async def test_the_official_client_gets_pictures_as_base64_and_by_url(house: House) -> None:
    async with house(MOCK) as home:
        client = openai.AsyncOpenAI(
            base_url=f"{home.url}/v1",
            api_key="k",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        )
        async with client:
            plain: Any = await client.images.generate(model="m", prompt="a cat", n=2, size="256x256")
            linked: Any = await client.images.generate(
                model="m", prompt="a cat", response_format="url", size="1024x1536"
            )
        assert [size_of(base64.b64decode(one.b64_json)) for one in plain.data] == [(256, 256)] * 2
        assert plain.data[0].b64_json != plain.data[1].b64_json
        assert plain.created > 1_700_000_000
        (one,) = linked.data
        assert one.b64_json is None
        assert size_of(await home.fetched(one.url)) == (1024, 1536)


async def test_the_same_prompt_and_seed_make_the_same_picture_at_the_mock(house: House) -> None:
    async with house(MOCK, files=False) as home:
        answers = [(await home.ask(seed=seed))[1]["data"] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


async def test_a_url_cannot_be_had_without_a_store_of_files_and_costs_nothing(house: House) -> None:
    async with house(f"{MOCK}[plugins.watch]\n", files=False, plugins={"watch": Watch}) as home:
        status, answer = await home.ask(response_format="url")
    assert status == 400
    assert answer["error"]["param"] == "response_format"
    assert "[plugins.files]" in answer["error"]["message"]
    assert [outcome.usage for _, outcome in Watch.outcomes] == [None]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"model": ""}, "model"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "2"}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "0x5"}, "size"),
        ({"size": "100000x5"}, "size"),
        ({"size": 5}, "size"),
        ({"response_format": "png"}, "response_format"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"async": "yes"}, "async"),
        ({"stream": True}, "stream"),
    ],
)
async def test_a_field_that_makes_no_sense_is_named(house: House, body: Mapping[str, Any], param: str) -> None:
    async with house(MOCK, files=False) as home:
        status, answer = await home.ask(**body)
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("size", ["big", "1024", "1024X1024", "1024x1024\n"])
async def test_a_size_of_another_form_is_told_the_right_one(house: House, size: str) -> None:
    async with house(MOCK, files=False) as home:
        status, answer = await home.ask(size=size)
    assert status == 400
    assert answer["error"]["message"] == "size: expected 'auto', or a width and a height in pixels, as in '1024x1024'"


async def test_async_marks_the_call_and_leaves_the_body(house: House) -> None:
    seen: list[tuple[bool, Any]] = []

    class Spy:
        Settings = Section

        def __init__(self, settings: Section) -> None: ...

        @hookimpl
        def register_observers(self) -> Iterable[Observer]:
            class Seen(Observer):
                def finished(self, call: Call, outcome: Outcome) -> None:
                    seen.append((call.deferred, call.payload.get("async", "gone")))

            return [Seen()]

    async with house(f"{MOCK}[plugins.spy]\n", files=False, plugins={"spy": Spy}) as home:
        status, refused = await home.ask(**{"async": True})
        await home.ask(**{"async": False})
        await home.ask()
    assert (status, refused["error"]["code"]) == (400, "jobs_disabled")
    assert seen == [(True, "gone"), (False, "gone"), (False, "gone")]


async def test_pictures_are_counted_and_priced_by_the_piece(house: House) -> None:
    async with house(f"{MOCK}[plugins.watch]\n", files=False, plugins={"watch": Watch}) as home:
        await home.ask(n=3)
        await home.ask(model="nobody")
    (_, drawn), (_, refused) = Watch.outcomes
    assert drawn.usage is not None
    assert (drawn.usage.images, drawn.usage.estimated) == (3, False)
    assert drawn.cost is not None
    assert drawn.cost.total == 120_000_000
    assert (refused.usage, refused.cost) == (None, None)


async def test_pictures_are_not_cached(house: House) -> None:
    async with house(f"{MOCK}[plugins.cache]\n", files=False) as home:
        for _ in range(2):
            async with home.http.post(
                f"{home.url}/v1/images/generations", json={"model": "m", "prompt": "p"}
            ) as answer:
                assert "X-Cache" not in answer.headers


# --- OpenAI-compatible servers -------------------------------------------------------------------------------------


def deployment(stub: StubUpstream, model: str) -> str:
    return f'[[models]]\nname = "m"\nvendor = "openai"\nmodel = "{model}"\nbase_url = "{stub.url}"\n'


async def test_openai_s_answer_goes_through_and_unknown_fields_survive(house: House) -> None:
    theirs = {"created": 7, "data": [{"url": "https://cdn.example/1", "revised_prompt": "r"}], "x": {"y": 1}}
    async with StubUpstream(Reply.of_json(theirs)) as stub, house(deployment(stub, "dall-e-3"), files=False) as home:
        status, answer = await home.ask(response_format="url", moderation="low")
    (request,) = stub.requests
    assert (status, answer) == (200, theirs)
    assert request.path == "/images/generations"
    assert request.json == {"model": "dall-e-3", "prompt": "a cat", "response_format": "url", "moderation": "low"}


async def test_a_model_that_gives_no_urls_is_not_asked_for_them_and_ours_stand_in(house: House) -> None:
    usage = {"input_tokens": 9, "output_tokens": 272, "total_tokens": 281}
    theirs = {"created": 7, "data": [{"b64_json": B64}], "usage": usage, "quality": "low"}
    async with (
        StubUpstream(Reply.of_json(theirs)) as stub,
        house(f"{deployment(stub, 'gpt-image-1')}[plugins.watch]\n", plugins={"watch": Watch}) as home,
    ):
        status, answer = await home.ask(response_format="url")
        assert "response_format" not in stub.requests[0].json
        assert await home.fetched(answer["data"][0]["url"]) == PNG
    assert (status, answer["usage"], answer["quality"]) == (200, usage, "low")
    ((_, outcome),) = Watch.outcomes
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens, outcome.usage.images) == (9, 272, 1)


async def test_a_model_that_gives_no_urls_is_not_called_where_nothing_stores_files(house: House) -> None:
    async with StubUpstream(Reply.of_json({})) as stub, house(deployment(stub, "gpt-image-1"), files=False) as home:
        status, answer = await home.ask(response_format="url")
    assert (status, answer["error"]["param"], stub.requests) == (400, "response_format", [])


async def test_answers_under_a_model_s_name_bear_the_public_one(house: House) -> None:
    theirs = {"created": 7, "model": "sd-x", "data": [{"b64_json": B64}]}
    async with StubUpstream(Reply.of_json(theirs)) as stub, house(deployment(stub, "sd-x")) as home:
        _, answer = await home.ask()
    assert answer == {**theirs, "model": "m"}


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply.of_json({"error": {"message": "no", "code": "content_policy_violation"}}, status=400), 400),
        (Reply.of_json({"error": {"message": "no"}}), 502),
        (Reply.of_json({"created": 1, "data": []}), 502),
        (Reply.of_json({"created": 1, "data": [{"b64_json": "?"}]}), 502),
        (Reply.of_json({"created": 1, "data": ["b64_json"]}), 502),
        (Reply(body=b"<html>"), 502),
    ],
)
async def test_a_failure_of_the_vendor_is_told_as_one(house: House, reply: Reply, status: int) -> None:
    async with StubUpstream(reply) as stub, house(f"[failover]\nretries = 0\n{deployment(stub, 'sd')}") as home:
        told, answer = await home.ask(response_format="url")
    assert told == status, json.dumps(answer)
    assert answer["error"]["message"].startswith("openai: ")
