"""Who watches: what `register_observers` promises, end to end."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession

from gatehook import Call, Chunk, Observer, Outcome, StreamBuilder, UpstreamError, Usage
from gatehook.testing import serving

Part = Callable[[StreamBuilder], Chunk] | Exception | asyncio.Event


def say(text: str) -> Part:
    return lambda answer: answer.text(text)


async def test_the_end_is_told_also_where_a_permit_is_cancelled_in_its_own_code(kit: Any) -> None:
    class Cancelled:
        def settle(self, outcome: Outcome) -> None:
            raise asyncio.CancelledError

    class Limit:
        def admit(self, call: Call) -> Cancelled:
            return Cancelled()

    watch = kit.Watching()
    plugins = {"l": kit.specimen(register_limiters=[Limit()]), "w": kit.specimen(register_observers=[watch])}
    async with kit.client(**plugins) as ask:
        with contextlib.suppress(aiohttp.ClientError, AssertionError):
            await ask.chat()
    assert watch.moments[-1].startswith("finished complete 200")


async def test_hook_register_observers_see_each_moment_of_a_plain_call(kit: Any) -> None:
    watch, answer = await kit.watched(kit.Vendor())
    assert watch.moments == ["started chat -", "finished complete 200"]
    assert answer.status == 200
    assert watch.outcomes[0].usage == Usage(3, 2)


async def test_hook_register_observers_see_each_moment_of_a_stream(kit: Any) -> None:
    watch, answer = await kit.watched(kit.Vendor(), stream=True)
    assert watch.moments == ["started chat -", "first_token", "chunk", "chunk", "chunk", "finished complete 200"]
    assert answer.text == "hello"
    (outcome,) = watch.outcomes
    assert outcome.usage == Usage(3, 2)
    assert outcome.first_token is not None
    assert 0 < outcome.first_token <= outcome.duration


async def test_hook_register_observers_see_the_usage_event_only_where_the_client_gets_it(kit: Any) -> None:
    watch, answer = await kit.watched(kit.Vendor(), stream=True, stream_options={"include_usage": True})
    assert watch.moments.count("chunk") == 4
    assert answer.events[-2]["usage"]["total_tokens"] == 5


async def test_hook_register_observers_an_answer_without_content_has_no_first_token(kit: Any) -> None:
    watch, answer = await kit.watched(kit.Vendor(kit.finish()), stream=True)
    assert answer.events[-1] == "[DONE]"
    assert watch.moments == ["started chat -", "chunk", "finished complete 200"]
    assert watch.outcomes[0].first_token is None


@pytest.mark.parametrize(
    ("headers", "fields", "status", "code"),
    [
        ({}, {}, 401, "invalid_api_key"),
        ({"X-API-Key": "k"}, {"messages": 7}, 400, "invalid_request_error"),
        ({"X-API-Key": "k"}, {"data": b"["}, 400, "invalid_request_error"),
        ({"X-API-Key": "k"}, {"model": "zzz"}, 404, "model_not_found"),
    ],
)
async def test_hook_register_observers_finished_once_for_a_call_refused(
    kit: Any, headers: dict[str, str], fields: dict[str, Any], status: int, code: str
) -> None:
    watch, answer = await kit.watched(kit.Vendor(), headers, **fields)
    assert (answer.status, len(watch.outcomes)) == (status, 1)
    assert watch.moments == ["started chat -", f"finished rejected {status} {code}"]
    assert watch.outcomes[0].usage is None


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_observers_finished_once_for_a_call_that_failed(kit: Any, stream: bool) -> None:
    watch, answer = await kit.watched(kit.Vendor(UpstreamError("specimen: broken")), stream=stream)
    assert answer.status == 502
    assert watch.moments == [
        "started chat -",
        "attempt_failed m#1 upstream_error",
        "finished failed 502 upstream_error",
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vendor_plugin_s_own_exception_is_a_502_that_tells_nothing_of_it(kit: Any, stream: bool) -> None:
    watch, answer = await kit.watched(kit.Vendor(ZeroDivisionError("secret")), stream=stream)
    assert (answer.status, answer.error["code"]) == (502, "vendor_plugin_error")
    assert b"secret" not in answer.body
    assert len(watch.outcomes) == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((say("hel"), UpstreamError("specimen: cut")), "upstream_error"),
        ((say("hel"),), "upstream_truncated"),
        ((say("hel"), ZeroDivisionError("secret")), "vendor_plugin_error"),
    ],
)
async def test_hook_register_observers_finished_once_for_a_stream_that_was_cut(
    kit: Any, script: tuple[Part, ...], code: str
) -> None:
    watch, answer = await kit.watched(kit.Vendor(*script), stream=True)
    assert answer.status == 200
    assert answer.events[-1]["error"]["code"] == code
    assert b"[DONE]" not in answer.body
    assert b"secret" not in answer.body
    assert watch.moments[-1] == f"finished partial 200 {code}"
    assert len(watch.outcomes) == 1


async def test_hook_register_observers_finished_once_for_a_client_that_left(kit: Any) -> None:
    vendor, watch = kit.Vendor(say("hel"), asyncio.Event()), kit.Watching()
    async with kit.client(vendor, w=kit.specimen(register_observers=[watch])) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await watch.over.wait()
    assert watch.moments == ["started chat -", "first_token", "chunk", "finished partial 499 client_left"]


async def test_hook_register_observers_exceptions_are_swallowed_and_counted(kit: Any) -> None:
    class Broken(Observer):
        def started(self, call: Call) -> None:
            raise RuntimeError("started")

        def chunk(self, call: Call, chunk: Chunk) -> None:
            raise RuntimeError("chunk")

        def finished(self, call: Call, outcome: Outcome) -> None:
            raise RuntimeError("finished")

    watch = kit.Watching()
    text = "[plugins.broken]\n[plugins.w]\n[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_specimen]\n"
    plugins = {
        "broken": kit.specimen(register_observers=[Broken()]),
        "w": kit.specimen(register_observers=[watch]),
        "vendor_specimen": kit.specimen(register_vendors=[kit.Vendor()]),
    }
    model = '[[models]]\nname = "m"\nvendor = "specimen"\n'
    async with serving(text + model, plugins=plugins) as served, ClientSession() as session:
        answer = await kit.Client(served.url, session).chat(stream=True)
        await watch.over.wait()
        assert served.gateway.pipeline.concerns.observers.failures == 5
    assert answer.text == "hello"
    assert watch.moments[-1] == "finished complete 200"


async def test_hook_register_observers_moments_that_nobody_overrides_cost_nothing(kit: Any) -> None:
    class Ends(Observer):
        def finished(self, call: Call, outcome: Outcome) -> None: ...

    text = "[plugins.w]\n[plugins.openai_api]\n"
    async with serving(text, plugins={"w": kit.specimen(register_observers=[Ends()])}) as served:
        assert served.gateway.pipeline.concerns.observers.chunk is None
