"""A gateway with the Responses API, OpenAI's SDK in front of it, and answers checked against the SDK's types."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gatehook import Gateway
from gatehook.testing import serving

PLUGINS = """
[plugins.responses_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.vendor_openai]
[plugins.vendor_anthropic]
[plugins.vendor_gemini]
[failover]
retries = 0
"""
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Object = dict[str, Any]


def checked(response: Object) -> Object:
    """A response object, after everything that must hold for any."""
    Response.model_validate(response, strict=True)
    assert response["object"] == "response"
    assert response["id"].startswith("resp_")
    assert response["store"] is False
    ids = [item["id"] for item in response["output"]]
    assert len(set(ids)) == len(ids)
    prefixes = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_", "custom_tool_call": "ctc_"}
    assert all(item["id"].startswith(prefixes[item["type"]]) for item in response["output"])
    assert (response["status"] == "incomplete") == (response["incomplete_details"] is not None)
    assert (response["status"] == "failed") == (response["error"] is not None)
    assert (response["status"] == "completed") == (response["completed_at"] is not None)
    return response


def read_events(body: bytes) -> list[Object]:
    """The events of a stream, each valid by itself and named as its type, numbered without a gap."""
    *blocks, rest = body.decode().split("\n\n")
    assert rest == ""
    events = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event, strict=True)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


_WORDS = ("text", "refusal", "arguments", "input")


class _Replay:
    """Follows a stream as a strict client does, and puts the output together from its deltas."""

    def __init__(self) -> None:
        self.items: list[Object] = []
        self._open: set[int] = set()
        self._texts: dict[Any, str] = {}
        """By item and part: what has been said of those that are open."""
        self._cited: dict[Any, list[Object]] = {}
        """The same: the citations."""

    def take(self, event: Object) -> None:
        kind, index = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert index == len(self.items)
            assert event["item"]["status"] == "in_progress"
            self._open.add(index)
            self.items.append(event["item"])
            if event["item"]["type"] in ("function_call", "custom_tool_call"):
                self._texts[index, None] = ""
            return
        assert index in self._open, event
        item = self.items[index]
        if kind == "response.output_item.done":
            self._open.remove(index)
            assert not [key for key in self._texts if key[0] == index], "a part is open still"
            assert event["item"]["id"] == item["id"]
            for name in ("content", "summary", "arguments", "input"):
                assert event["item"].get(name) == item.get(name), "what is told at the end was not said before"
            self.items[index] = event["item"]
            return
        assert event["item_id"] == item["id"]
        part = event.get("content_index", event.get("summary_index"))
        if kind.endswith("part.added"):
            assert part == len(item["summary" if "summary" in kind else "content"])
            self._texts[index, part] = ""
        elif kind.endswith("part.done"):
            told = event["part"]
            assert self._texts.pop((index, part)) == told.get("text", told.get("refusal"))
            assert self._cited.pop((index, part), []) == told.get("annotations", [])
            item["summary" if "summary" in kind else "content"].append(told)
        elif kind.endswith(".annotation.added"):
            cited = self._cited.setdefault((index, part), [])
            assert event["annotation_index"] == len(cited)
            cited.append(event["annotation"])
        elif kind.endswith(".delta"):
            self._texts[index, part] += event["delta"]
        else:
            assert kind.endswith(".done"), kind
            ((name, whole),) = [(name, event[name]) for name in _WORDS if name in event]
            assert self._texts[index, part] == whole
            if name in ("arguments", "input"):
                item[name] = self._texts.pop((index, part))

    def finish(self) -> list[Object]:
        assert not self._open
        return self.items


def followed(events: Sequence[Object]) -> Object:
    """The response of a stream that came to its end, after everything that must hold for any stream."""
    created, begun, *middle, last = events
    assert (created["type"], begun["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == begun["response"] == checked(created["response"])
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert last["type"] == f"response.{last['response']['status']}"
    assert last["type"] in ("response.completed", "response.incomplete")
    replay = _Replay()
    for event in middle:
        replay.take(event)
    assert replay.finish() == last["response"]["output"]
    repeated = set(created["response"]) - {"status", "output", "usage", "completed_at", "incomplete_details"}
    assert all(created["response"][name] == last["response"][name] for name in repeated)
    return checked(last["response"])


_OWN = ("id", "created_at", "completed_at", "call_id")


def bare(value: Any) -> Any:
    """Without what is another's in each answer."""
    if isinstance(value, dict):
        return {name: bare(one) for name, one in value.items() if name not in _OWN}
    return [bare(one) for one in value] if isinstance(value, list) else value


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def response(self) -> Object:
        """The response object, plain or of a stream's end."""
        assert self.status == 200, self.body
        if self.headers["Content-Type"].startswith("text/event-stream"):
            return followed(read_events(self.body))
        return checked(self.json)

    def error(self, status: int, param: str | None = None) -> Object:
        """The error object, after everything that must hold for any."""
        assert self.status == status, self.body
        assert set(self.json) == {"error"}
        error: Object = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        if param is not None:
            assert error["param"] == param, error
            assert error["message"].startswith(f"{param}: "), error
        return error


@dataclass
class Api:
    """A serving gateway and clients of it."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession
    sdk: openai.AsyncOpenAI

    async def ask(self, **body: Any) -> Answer:
        """POST; model and input are made up where not given."""
        return await self.request("POST", "", data=json.dumps({"model": "m", "input": "Hi", **body}).encode())

    async def both(self, **body: Any) -> Object:
        """The response to a request; plain and streamed it must be the same."""
        plain, streamed = [(await self.ask(**body, stream=stream)).response for stream in (False, True)]
        assert bare(plain) == bare(streamed)
        return plain

    async def request(self, method: str, path: str, **rest: Any) -> Answer:
        headers = {"Content-Type": "application/json", **rest.pop("headers", {})}
        async with self.http.request(method, f"{self.url}/v1/responses{path}", headers=headers, **rest) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


OpenApi = Callable[..., AbstractAsyncContextManager[Api]]


@pytest.fixture
def api() -> OpenApi:
    """Opens a gateway: the plugins of every test, and the settings given."""

    @contextlib.asynccontextmanager
    async def opened(settings: str, **how: Any) -> AsyncIterator[Api]:
        transport = openai.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than most tests
        async with (
            serving(PLUGINS + settings, **how) as served,
            aiohttp.ClientSession() as http,
            openai.AsyncOpenAI(
                base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=20, http_client=transport
            ) as sdk,
        ):
            yield Api(served.url, served.gateway, http, sdk)

    return opened


@pytest.fixture
def mock() -> Callable[[str], str]:
    """The settings of a model "m" of the mock vendor, with these options."""
    return lambda options: f'[[models]]\nname = "m"\nvendor = "mock"\noptions = {{ {options} }}\n'


@pytest.fixture(name="bare", scope="session")
def bare_fixture() -> Callable[[Any], Any]:
    return bare


@pytest.fixture(name="read_events", scope="session")
def read_events_fixture() -> Callable[[bytes], list[Object]]:
    return read_events


@pytest.fixture(name="followed", scope="session")
def followed_fixture() -> Callable[[Sequence[Object]], Object]:
    return followed
