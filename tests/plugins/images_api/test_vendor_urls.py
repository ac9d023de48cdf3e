"""Pictures that an OpenAI-compatible server gives by URLs of its own, which do not last; and those it did not make."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

import pytest

from gatehook import Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import Reply, StubUpstream
from gatehook_plugins.vendor_openai import fetching

House = Any
PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(20)
B64: Final = base64.b64encode(PNG).decode()
PICTURE: Final = Reply(body=PNG, content_type="image/png")


class Watch:
    """A plugin that keeps what becomes of each call."""

    Settings = Section
    outcomes: ClassVar[list[Outcome]] = []

    def __init__(self, settings: Section) -> None:
        type(self).outcomes = []

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        class Watcher(Observer):
            def finished(self, call: Call, outcome: Outcome) -> None:
                Watch.outcomes.append(outcome)

        return [Watcher()]


def deployment(stub: StubUpstream, more: str = "") -> str:
    where = f'model = "sd"\nbase_url = "{stub.url}/v1"\napi_key = "vendor-secret-0123456789"\n'
    return f'[[models]]\nname = "m"\nvendor = "openai"\n{where}pricing = {{ per_image = 0.04 }}\n{more}'


def answer_of(*entries: Any) -> Reply:
    return Reply.of_json({"created": 7, "data": list(entries), "x": {"y": 1}})


async def asked(home: Any, **body: Any) -> tuple[int, Any, Mapping[str, str]]:
    body = {"model": "m", "prompt": "a cat", **body}
    async with home.http.post(f"{home.url}/v1/images/generations", json=body) as answer:
        return answer.status, await answer.json(), answer.headers


@pytest.mark.parametrize("asks", [{"response_format": "url"}, {}])
@pytest.mark.parametrize("path", ["/made/1.png?sig=x", "{url}/made/1.png?sig=x"])
async def test_it_is_kept_and_given_by_a_url_of_the_gateway_s(house: House, asks: Any, path: str) -> None:
    async with StubUpstream(PICTURE) as stub, house(deployment(stub)) as home:
        entry = {"url": path.replace("{url}", stub.url), "revised_prompt": "r", "seed": 5}
        stub.script(answer_of(entry), PICTURE)
        status, answer, _ = await asked(home, **asks)
        (made,) = answer["data"]
        assert (status, answer["x"]) == (200, {"y": 1})
        assert (made["revised_prompt"], made["seed"]) == ("r", 5)
        assert stub.url not in made["url"]
        assert await home.fetched(made["url"]) == PNG
    _, fetch = stub.requests
    assert (fetch.method, fetch.path) == ("GET", "/made/1.png?sig=x")
    assert "authorization" not in fetch.headers, "the vendor's key is for its API alone"


@pytest.mark.parametrize("written", [f"data:image/png;base64,{B64}", "\r\n".join((B64[:40], B64[40:], ""))])
async def test_a_picture_in_another_form_of_base64_is_kept_as_well(house: House, written: str) -> None:
    async with StubUpstream(answer_of({"b64_json": written})) as stub, house(deployment(stub)) as home:
        status, answer, _ = await asked(home, response_format="url")
        assert status == 200
        assert await home.fetched(answer["data"][0]["url"]) == PNG
    assert len(stub.requests) == 1, "it was paid for"


@pytest.mark.parametrize("files", [True, False])
async def test_base64_is_given_where_it_was_asked_for_and_a_url_came(house: House, files: bool) -> None:
    async with StubUpstream(PICTURE) as stub, house(deployment(stub), files=files) as home:
        entries = [{"url": f"{stub.url}/1"}, {"b64_json": B64}, {"url": f"data:image/png;base64,{B64}"}]
        stub.script(answer_of(*entries), PICTURE)
        status, answer, headers = await asked(home, response_format="b64_json", n=3)
    assert (status, answer["data"]) == (200, [{"b64_json": B64}] * 3)
    assert "X-Gatehook-Dropped-Params" not in headers


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=404),
        Reply(body=b"<html>hello", content_type="image/png"),
        Reply(body=PNG, content_type="image/png", end="cut"),
        Reply(status=0, end="silence"),
    ],
)
@pytest.mark.parametrize("wanted", ["url", "b64_json"])
async def test_what_cannot_be_fetched_is_given_as_it_came_for_it_is_paid(
    house: House, monkeypatch: pytest.MonkeyPatch, reply: Reply, wanted: str
) -> None:
    monkeypatch.setattr(fetching, "_PATIENCE", 0.5)
    async with (
        StubUpstream(PICTURE) as stub,
        house(f"{deployment(stub)}[plugins.watch]\n", plugins={"watch": Watch}) as home,
    ):
        theirs = {"url": f"{stub.url}/1"}
        stub.script(answer_of(theirs), reply)
        status, answer, headers = await asked(home, response_format=wanted)
    assert (status, answer["data"]) == (200, [theirs])
    assert headers.get("X-Gatehook-Dropped-Params") == ("response_format" if wanted == "b64_json" else None)
    assert [request.method for request in stub.requests] == ["POST", "GET"]
    assert [outcome.usage.images for outcome in Watch.outcomes if outcome.usage] == [1]


async def test_a_server_s_url_leads_to_no_private_address_but_its_own(house: House) -> None:
    async with StubUpstream(PICTURE) as inner, StubUpstream(PICTURE) as stub, house(deployment(stub)) as home:
        urls = [f"{inner.url}/secret", inner.url.replace("127.0.0.1", "localhost"), "file:///etc/passwd", "http://[", 5]
        for url in urls:
            stub.script(answer_of({"url": url}))
            _, answer, _ = await asked(home, response_format="url")
            assert answer["data"] == [{"url": url}]
    assert inner.requests == []


async def test_without_a_store_the_server_s_own_is_handed_on(house: House) -> None:
    async with StubUpstream(PICTURE) as stub, house(deployment(stub), files=False) as home:
        theirs = {"url": f"{stub.url}/1"}
        stub.script(answer_of(theirs))
        status, answer, _ = await asked(home, response_format="url")
    assert (status, answer["data"], len(stub.requests)) == (200, [theirs], 1)


async def test_a_full_store_leaves_urls_as_they_came_and_has_nothing_made_again(house: House) -> None:
    full = "max_bytes = 1\n"
    async with (
        StubUpstream(PICTURE) as stub,
        house(full + deployment(stub) + deployment(stub).replace("0123456789", "9876543210")) as home,
    ):
        stub.script(answer_of({"url": f"{stub.url}/1"}), PICTURE)
        status, answer, _ = await asked(home, response_format="url")
        assert (status, answer["data"]) == (200, [{"url": f"{stub.url}/1"}])
        stub.script(answer_of({"b64_json": B64}))
        status, answer, _ = await asked(home, response_format="url")
        assert (status, answer["error"]["type"]) == (503, "server_error")
    assert [request.method for request in stub.requests] == ["POST", "GET", "POST"]


@pytest.mark.parametrize(
    "missing", [{"error": {"code": "content_filter"}}, {"b64_json": None}, {"b64_json": "", "url": None}, {}, None]
)
async def test_what_was_not_made_of_several_stays_in_its_place_and_is_not_charged(house: House, missing: Any) -> None:
    entries = [{"b64_json": B64}, missing, {"b64_json": B64}]
    async with (
        StubUpstream(answer_of(*entries)) as stub,
        house(f"{deployment(stub)}[plugins.watch]\n", files=False, plugins={"watch": Watch}) as home,
    ):
        status, answer, _ = await asked(home, n=3)
    assert (status, answer["data"]) == (200, entries)
    (outcome,) = Watch.outcomes
    assert outcome.usage is not None
    assert outcome.cost is not None
    assert (outcome.usage.images, outcome.cost.total) == (2, 80_000_000)


async def test_an_answer_without_any_picture_is_a_failure(house: House) -> None:
    tables = "[failover]\nretries = 0\n[plugins.watch]\n"
    async with (
        StubUpstream(answer_of({"b64_json": None}, {"error": "no"})) as stub,
        house(tables + deployment(stub), files=False, plugins={"watch": Watch}) as home,
    ):
        status, answer, _ = await asked(home, n=2)
    assert (status, answer["error"]["code"]) == (502, "upstream_malformed"), json.dumps(answer)
    assert [outcome.usage for outcome in Watch.outcomes] == [None]
