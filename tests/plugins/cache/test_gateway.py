"""The plugin in a whole gateway, keeping answers in memory and in Redis."""

import contextlib
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from gatehook import Call, PermissionDenied, Section, StartupError, ToolCall, ToolPolicy, Verdict, hookimpl
from gatehook.calls.repeats import LONGEST
from gatehook.testing import Reply, StubUpstream, built
from gatehook_plugins.openai_api.surface import OpenAISurface

Gateway = Callable[..., AbstractAsyncContextManager[Any]]
Backend = tuple[str, str]

REAL = '[[models]]\nname = "real"\nvendor = "openai"\nbase_url = "{}"\n'


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    return (
        b"data: %b\n\n"
        % json.dumps({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode()
    )


STREAM = event({"role": "assistant", "content": "Hel"}) + event({"content": "lo"}) + event({}, "stop")
END = b"data: [DONE]\n\n"


def said(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


async def both(client: Any, *controls: str, **body: Any) -> list[str | None]:
    """What X-Cache says, call after call; each is over, its answer stored, before the next begins."""
    marks = []
    for control in controls:
        before = len(client.stage.outcomes)
        answer = await client.ask(control, **body)
        await client.stage.until(lambda wanted=before + 1: len(client.stage.outcomes) >= wanted)
        await written(client)
        marks.append(answer.cache)
    return marks


async def written(client: Any) -> None:
    """Wait for what is on its way to Redis."""
    (cache,) = client.gateway.pipeline.concerns.answers.caches
    for writing in list(getattr(cache._store, "_writes", ())):
        await writing


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_gets_the_same_answer_at_no_cost(
    gateway: Gateway, backend: Backend, stream: bool
) -> None:
    async with gateway(*backend) as client:
        first = await client.ask(stream=stream)
        await client.stage.until(lambda: len(client.stage.outcomes) == 1)
        await written(client)
        second = await client.ask(stream=stream)
        await client.stage.until(lambda: len(client.stage.outcomes) == 2)
    assert (first.cache, second.cache) == ("miss", "hit")
    assert first.text == second.text
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert ("Age" in first.headers, int(second.headers["Age"]) < 60) == (False, True)
    assert [one.status for one in client.stage.outcomes] == ["complete", "cached"]
    assert client.stage.outcomes[1].usage.total_tokens == 0
    assert client.stage.outcomes[1].cost is None


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_that_come_again_are_read_once_and_checked_each_time(
    gateway: Gateway, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    parse = OpenAISurface.parse

    def counted(self: OpenAISurface, call: Call, request: Any, body: bytes) -> None:
        read.append(body)
        parse(self, call, request, body)

    monkeypatch.setattr(OpenAISurface, "parse", counted)
    async with gateway() as client:
        answers = [await client.ask(stream=stream) for _ in range(4)]
        assert [one.cache for one in answers] == ["miss", "hit", "hit", "hit"]
        assert {one.text for one in answers} == {answers[0].text}
        assert len(read) == 2, "when it was answered, and when it first came again"
        other = await client.ask(who="bob", stream=stream)
        assert (other.cache, other.status) == ("miss", 200), "known bytes are nobody's answer"
        url, headers = f"{client.url}/v1/chat/completions", {"Content-Type": "text/plain"}
        async with client.session.post(url, data=read[0], headers=headers) as wrong:
            assert wrong.status == 415
        assert [one.status for one in client.stage.outcomes[:4]] == ["complete", "cached", "cached", "cached"]


async def test_what_one_path_has_read_is_not_another_s(gateway: Gateway) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}'
    async with gateway() as client:
        assert [(await client.ask(data=body)).cache for _ in range(3)] == ["miss", "hit", "hit"]
        completion = await client.ask(data=body, path="completions")
        assert (completion.cache, completion.json["object"]) == ("miss", "text_completion")


async def test_long_requests_are_read_each_time(gateway: Gateway) -> None:
    async with gateway() as client:
        text = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * LONGEST}]}).encode()
        assert [(await client.ask(data=text)).cache for _ in range(3)] == ["miss", "hit", "hit"]
        assert not client.gateway.pipeline.concerns.answers.repeats._read


async def test_only_so_many_requests_are_remembered(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook.calls.repeats._MOST", 3)
    async with gateway() as client:
        for number in range(10):
            asked = [await client.ask(user=str(number)) for _ in range(3)]
            assert [one.cache for one in asked] == ["miss", "hit", "hit"]
            assert len(client.gateway.pipeline.concerns.answers.repeats._read) <= 3


async def test_embeddings_and_completions_are_kept_too(gateway: Gateway, backend: Backend) -> None:
    async with gateway(*backend) as client:
        for path, field in (("embeddings", "input"), ("completions", "prompt")):
            assert await both(client, "", "", path=path, **{field: "hi"}) == ["miss", "hit"]


async def test_a_stream_of_frames_is_replayed_to_the_byte(gateway: Gateway, backend: Backend) -> None:
    async with (
        StubUpstream(Reply.of_events([STREAM[:150], STREAM[150:], END])) as stub,
        gateway(backend[0], backend[1] + REAL.format(stub.url)) as client,
    ):
        first = await client.ask(model="real", stream=True)
        await client.stage.until(lambda: bool(client.stage.outcomes))
        await written(client)
        second = await client.ask(model="real", stream=True)
    assert len(stub.requests) == 1
    assert second.cache == "hit"
    assert second.text == first.text
    assert second.text.endswith("data: [DONE]\n\n")
    assert "Hel" in first.text


async def test_the_usage_event_is_for_who_asked(gateway: Gateway) -> None:
    async with gateway() as client:
        for options in ({}, {"stream_options": {"include_usage": True}}):
            answers = []
            for number in range(2):
                before = len(client.stage.outcomes)
                answers.append(await client.ask(stream=True, **options))
                await client.stage.until(lambda wanted=before + 1: len(client.stage.outcomes) >= wanted)
                assert answers[-1].cache == ("miss", "hit")[number]
            assert answers[0].text == answers[1].text
            assert ('"total_tokens":100' in answers[1].text) == bool(options)


@pytest.mark.parametrize(
    "reply",
    [
        Reply.of_events(STREAM[:-20], end="cut"),
        Reply.of_events(event({"role": "assistant", "content": "Hel"}) + END),
        Reply.of_events(STREAM.replace(b'"stop"', b'"content_filter"') + END),
    ],
    ids=["cut", "without a finish", "filtered"],
)
async def test_a_stream_that_did_not_end_well_is_not_kept(gateway: Gateway, reply: Reply) -> None:
    async with StubUpstream(reply) as stub, gateway("", REAL.format(stub.url)) as client:
        for number in range(2):
            with contextlib.suppress(ClientPayloadError):
                assert (await client.ask(model="real", stream=True)).cache == "miss"
            await client.stage.until(lambda wanted=number + 1: len(client.stage.outcomes) >= wanted)
    assert len(stub.requests) == 2


async def test_failures_and_filtered_answers_are_not_kept(gateway: Gateway) -> None:
    replies = [Reply.of_json({"error": {"message": "no"}}, status=400), Reply.of_json(said("", "content_filter"))]
    async with (
        StubUpstream(*replies, Reply.of_json(said("Yes."))) as stub,
        gateway("", REAL.format(stub.url)) as client,
    ):
        answers = [await client.ask(model="real") for _ in range(4)]
    assert [one.status for one in answers] == [400, 200, 200, 200]
    assert [one.cache for one in answers] == ["miss", "miss", "miss", "hit"]
    assert len(stub.requests) == 3


async def test_a_fallback_s_answer_is_not_kept(gateway: Gateway) -> None:
    replies = [Reply.of_json({"error": {"message": "down"}}, status=500), Reply.of_json(said("Back again."))]
    async with StubUpstream(*replies) as stub, gateway("", REAL.format(stub.url) + 'fallbacks = ["m"]\n') as client:
        answers = [await client.ask(model="real") for _ in range(3)]
    assert [one.cache for one in answers] == ["miss", "miss", "hit"]
    assert [one.json["model"] for one in answers] == ["m", "real", "real"]


async def test_dropped_parameters_are_told_on_a_hit_too(gateway: Gateway, backend: Backend) -> None:
    more = '[plugins.vendor_gemini]\n[[models]]\nname = "g"\nvendor = "gemini"\nbase_url = "{}"\napi_key = "k"\n'
    answer = {"candidates": [{"content": {"parts": [{"text": "Hi."}]}, "finishReason": "STOP"}]}
    async with (
        StubUpstream(Reply.of_json(answer)) as stub,
        gateway(backend[0], backend[1] + more.format(stub.url)) as client,
    ):
        first = await client.ask(model="g", unheard_of=1)
        await written(client)
        second = await client.ask(model="g", unheard_of=1)
    assert (first.cache, second.cache) == ("miss", "hit")
    assert second.headers["X-Gatehook-Dropped-Params"] == first.headers["X-Gatehook-Dropped-Params"] == "unheard_of"


# --- what clients want ---------------------------------------------------------------------------------------------


async def test_no_cache_asks_anew_and_stores(gateway: Gateway, backend: Backend) -> None:
    async with (
        StubUpstream(*(Reply.of_json(said(text)) for text in ("one", "two"))) as stub,
        gateway(backend[0], backend[1] + REAL.format(stub.url)) as client,
    ):
        assert await both(client, "", "no-cache", "", model="real") == ["miss", "miss", "hit"]
        last = await client.ask(model="real")
    assert last.json["choices"][0]["message"]["content"] == "two"


async def test_no_store_leaves_the_cache_alone(gateway: Gateway, backend: Backend) -> None:
    async with gateway(*backend) as client:
        assert await both(client, "no-store", "", "no-store", "") == [None, "miss", None, "hit"]


async def test_max_age_takes_nothing_older(gateway: Gateway) -> None:
    async with gateway() as client:
        wishes = ("", "max-age=60", "max-age=0", "Max-Age=nonsense", 'private, max-age="60"')
        assert await both(client, *wishes) == ["miss", "hit", "miss", "miss", "hit"]


async def test_only_if_cached_never_asks_a_vendor(gateway: Gateway) -> None:
    async with gateway("share = true") as client:
        refused = await client.ask("only-if-cached", model="staged")
        assert (refused.status, refused.json["error"]["code"]) == (504, "not_cached")
        both_ways = await client.ask("only-if-cached, no-store")
        assert both_ways.status == 504
        assert client.stage.acts == []
        assert await both(client, "", "only-if-cached") == ["miss", "hit"]


# --- what operators want -------------------------------------------------------------------------------------------


async def test_the_life_of_an_answer_is_the_model_s(gateway: Gateway) -> None:
    async with gateway("models = { m = 0 }") as client:
        assert await both(client, "", "", model="fast") == ["miss", "miss"]
    async with gateway("ttl = 0\nmodels = { m = 60 }") as client:
        assert await both(client, "", "", model="fast") == ["miss", "hit"]
        assert await both(client, "") == ["miss"]  # another name, another answer: it says which model it is of


async def test_large_answers_are_given_but_not_kept(gateway: Gateway) -> None:
    async with (
        StubUpstream(Reply.of_json(said("x" * 3000))) as stub,
        gateway('max_entry = "2KB"', REAL.format(stub.url)) as client,
    ):
        assert await both(client, "", "", model="real") == ["miss", "miss"]
        long = event({"role": "assistant", "content": "y" * 3000}) + STREAM
        stub.script(Reply.of_events([*(long[n : n + 100] for n in range(0, len(long), 100)), END]))
        assert await both(client, "", "", model="real", stream=True) == ["miss", "miss"]


async def test_answers_of_other_deployments_are_not_given(gateway: Gateway, redis_url: str) -> None:
    redis = f'[redis]\nurl = "{redis_url}"\ntimeout = 5\n'
    async with StubUpstream(Reply.of_json(said("Hi."))) as stub:
        marks = []
        for change in ("", "", 'model = "newer"\n', "weight = 2\n", 'options = { organization = "o" }\n'):
            async with gateway('backend = "redis"', redis + REAL.format(stub.url) + change) as client:
                marks += await both(client, "", model="real")
    assert marks == ["miss", "hit", "miss", "hit", "miss"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('backend = "redis"', "[redis] url is empty"),
        ('backend = "redis"\n[redis]\nurl = "http://:secret@host/"', "expected redis://HOST:PORT/N"),
        ('backend = "redis"\n[redis]\nurl = "redis:/host:6379/0"', "expected redis://HOST:PORT/N"),
    ],
)
def test_a_redis_that_cannot_be_is_told_at_start(table: str, told: str) -> None:
    with pytest.raises(StartupError) as error:
        built(f"[plugins.cache]\n{table}\n")
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_an_entry_larger_than_the_memory_is_a_fault() -> None:
    with pytest.raises(Exception, match="max_entry is more than max_bytes"):
        built('[plugins.cache]\nmax_bytes = "1KB"\n')


# --- tools ---------------------------------------------------------------------------------------------------------


class Moods:
    """Allows tool calls, until it does not."""

    class Settings(Section): ...

    strict = False

    def __init__(self, settings: Settings) -> None:
        Moods.strict = False

    @hookimpl
    def register_tool_policies(self) -> Iterable[ToolPolicy]:
        return [self]

    async def offer(self, call: Call, tools: Any) -> Any:
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        return Verdict("deny" if self.strict else "allow")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_tool_call_is_judged_anew(gateway: Gateway, backend: Backend, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    fields: dict[str, Any] = {"model": "t", "stream": stream, "tools": [tool]}
    model = '[[models]]\nname = "t"\nvendor = "mock"\noptions = { tool_calls = [{ name = "f" }] }\n'
    async with gateway(backend[0], f"{backend[1]}[plugins.moods]\n{model}", moods=Moods) as client:
        assert await both(client, "", "", **fields) == ["miss", "hit"]
        Moods.strict = True
        denied = await client.ask(**fields)
    assert (denied.status, denied.json["error"]["code"]) == (403, "tool_call_denied")
    assert denied.json["error"]["type"] == PermissionDenied("").type
