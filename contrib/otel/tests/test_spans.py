"""The spans and metrics of calls through a whole gateway, kept in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiohttp import ClientSession
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gatehook import Outcome, Usage
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_otel import OtelPlugin
from gatehook_otel.calls import _each_token

PLUGINS = {"otel": OtelPlugin}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Spans = Callable[[], Sequence[ReadableSpan]]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def ask(settings: str, *bodies: dict[str, Any], headers: dict[str, str] | None = None) -> list[int]:
    """Ask a gateway that lives as long as this takes; gives the statuses."""
    found = []
    async with serving(settings, plugins=PLUGINS) as served, ClientSession(served.url) as session:
        for body in bodies:
            asked = {"messages": [{"role": "user", "content": "my secret"}], **body}
            async with session.post("/v1/chat/completions", json=asked, headers=headers) as answer:
                await answer.read()
                found.append(answer.status)
    return found


async def test_a_call_is_a_span_and_its_attempt_another_below_it(settings: str, spans: Spans) -> None:
    assert await ask(settings, {"model": "good", "max_tokens": 9}) == [200]
    attempt, call = spans()
    assert (call.name, call.kind) == ("chat good", SpanKind.SERVER)
    assert (attempt.name, attempt.kind) == ("chat echo", SpanKind.CLIENT)
    assert attempt.parent is not None
    assert attempt.parent.span_id == call.context.span_id
    told = attributes(call)
    assert told.pop("gatehook.call.id", "").startswith("req_")
    assert told.pop("gen_ai.usage.input_tokens") > 0
    assert told.pop("gen_ai.usage.output_tokens") > 0
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "good",
        "gen_ai.response.model": "echo",
        "gen_ai.provider.name": "mock",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gatehook.surface": "openai",
        "gatehook.status": "complete",
        "gatehook.attempts": 1,
        "gatehook.deployment": "good#1",
        "http.response.status_code": 200,
        "enduser.id": "anonymous",
    }
    assert "my secret" not in call.to_json() + attempt.to_json()


async def test_each_attempt_of_a_failover_has_its_span(settings: str, spans: Spans) -> None:
    assert await ask(settings, {"model": "shaky"}) == [200]
    failed, answered, call = spans()
    assert failed.status.status_code is StatusCode.ERROR
    told = attributes(failed)
    assert told["error.type"] == "upstream_error"
    assert (told["server.address"], told["server.port"]) == ("vendor.example", 8443)
    assert "secret" not in failed.to_json()
    assert answered.status.status_code is StatusCode.UNSET
    assert attributes(answered)["gatehook.deployment"] == "good#1"
    assert (failed.end_time or 0) <= (answered.start_time or 0)
    assert [event.name for event in call.events] == ["gatehook.attempt_failed"]
    assert attributes(call)["gatehook.attempts"] == 2


async def test_a_stream_tells_its_first_token(settings: str, spans: Spans) -> None:
    await ask(settings, {"model": "good", "stream": True})
    _, call = spans()
    assert attributes(call)["gen_ai.request.stream"] is True
    assert attributes(call)["gen_ai.response.time_to_first_chunk"] > 0


async def test_the_client_s_trace_goes_on_and_its_sampling_holds(settings: str, spans: Spans) -> None:
    await ask(settings, {"model": "good"}, headers={"traceparent": PARENT})
    attempt, call = spans()
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{call.context.trace_id:032x}" == f"{attempt.context.trace_id:032x}" == PARENT.split("-")[1]


async def test_what_the_client_does_not_sample_is_not_sent(settings: str, spans: Spans) -> None:
    await ask(settings, {"model": "good"}, headers={"traceparent": PARENT[:-1] + "0"})
    assert spans() == ()


@pytest.mark.parametrize(
    "header", ["", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:], "x" * 9999]
)
async def test_a_bad_traceparent_begins_a_new_trace(settings: str, spans: Spans, header: str) -> None:
    assert await ask(settings, {"model": "good"}, headers={"traceparent": header}) == [200]
    _, call = spans()
    assert call.parent is None


async def test_traces_of_clients_can_be_left_alone_and_those_begun_here_sampled(settings: str, spans: Spans) -> None:
    more = settings.replace("users = true", "users = false\nfollow = false")
    await ask(more, {"model": "good"}, headers={"traceparent": PARENT})
    _, call = spans()
    assert call.parent is None
    assert "enduser.id" not in attributes(call)
    await ask(settings.replace("users = true", "sample = 0"), {"model": "good"})
    assert len(spans()) == 2


async def test_refusals_are_spans_without_attempts_and_no_error_of_the_server(settings: str, spans: Spans) -> None:
    assert await ask(settings, {"model": "made-up-by-a-client"}, {"model": "good", "messages": 7}) == [404, 400]
    for call in spans():
        assert call.status.status_code is StatusCode.UNSET
        assert "gen_ai.request.model" not in attributes(call)
    assert [attributes(call)["error.type"] for call in spans()] == ["model_not_found", "invalid_request_error"]


async def test_a_failed_call_is_an_error(settings: str, spans: Spans) -> None:
    alone = settings.replace('fallbacks = ["good"]\n', "")
    assert await ask(alone, {"model": "shaky"}) == [502]
    _, call = spans()
    assert call.status.status_code is StatusCode.ERROR
    assert attributes(call)["gatehook.status"] == "failed"


async def test_metrics(settings: str, spans: Spans, points: Callable[[], dict[str, list[Any]]]) -> None:
    async with serving(settings, plugins=PLUGINS) as served, ClientSession(served.url) as session:
        for model, stream in (("good", False), ("shaky", True), ("made-up", False)):
            body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()
        found = points()
    requests = {
        (one.attributes.get("gen_ai.request.model"), one.attributes.get("error.type"))
        for one in found["gen_ai.server.request.duration"]
    }
    assert requests == {("good", None), ("shaky", None), (None, "model_not_found")}
    (first,) = found["gen_ai.server.time_to_first_token"]
    assert first.attributes["gen_ai.request.model"] == "shaky"
    assert (first.explicit_bounds[0], first.explicit_bounds[-1]) == (0.001, 10.0)
    (each,) = found["gen_ai.server.time_per_output_token"]
    assert each.attributes["gen_ai.request.model"] == "shaky"
    assert (each.explicit_bounds[0], each.explicit_bounds[-1]) == (0.01, 2.5)
    operations = found["gen_ai.client.operation.duration"]
    assert sum(one.count for one in operations) == 3
    assert {one.attributes.get("error.type") for one in operations} == {None, "upstream_error"}
    tokens = found["gen_ai.client.token.usage"]
    assert {one.attributes["gen_ai.token.type"] for one in tokens} == {"input", "output"}
    assert tokens[0].explicit_bounds[:3] == (1, 4, 16)


async def test_what_clients_and_vendors_make_up_makes_no_new_series(
    spans: Spans, points: Callable[[], dict[str, list[Any]]]
) -> None:
    settings = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.otel]
[[models]]
name = "any/*"
vendor = "openai"
model = "its-*"
base_url = "URL/v1"
"""
    replies = [
        Reply.of_json({"error": {"message": "no", "code": f"made-up-{number}"}}, status=400) for number in range(120)
    ]
    async with (
        StubUpstream(*replies) as stub,
        serving(settings.replace("URL", stub.url), plugins=PLUGINS) as served,
        ClientSession(served.url) as session,
    ):
        for number in range(120):
            body = {"model": f"any/{number}", "messages": [{"role": "user", "content": "hi"}]}
            async with session.post("/v1/chat/completions", json=body) as answer:
                assert answer.status == 400
        found = points()
    series = found["gen_ai.server.request.duration"]
    assert {one.attributes["gen_ai.request.model"] for one in series} == {"any/*"}
    assert {one.attributes["gen_ai.response.model"] for one in series} == {"its-*"}
    operations = found["gen_ai.client.operation.duration"]
    assert {one.attributes["gen_ai.request.model"] for one in operations} == {"its-*"}
    for each in (series, operations):
        assert len(each) == 101
        assert "_OTHER" in {one.attributes["error.type"] for one in each}
    attempt, call = spans()[-2:]
    assert attributes(attempt)["gen_ai.request.model"] == attributes(call)["gen_ai.response.model"] == "its-119"


async def test_a_client_that_leaves_ends_its_spans(spans: Spans) -> None:
    settings = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.otel]
metrics = false
[[models]]
name = "m"
vendor = "openai"
base_url = "URL/v1"
"""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    async with (
        StubUpstream(Reply.of_events(event, end="silence")) as stub,
        serving(settings.replace("URL", stub.url), plugins=PLUGINS) as served,
        ClientSession() as session,
        session.post(f"{served.url}/v1/chat/completions", json=body) as answer,
    ):
        await answer.content.readline()
        answer.close()
        await stub.closed_early.wait()
    attempt, call = spans()
    assert attributes(call)["error.type"] == attributes(attempt)["error.type"] == "client_left"
    assert attempt.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, 0.25),
        ({"status": "partial"}, None),
        ({"status": "cached"}, None),
        ({"first_token": None}, None),
        ({"usage": None}, None),
        ({"usage": Usage(3, 1)}, None),
        ({"usage": Usage(3, 5, estimated=True)}, None),
    ],
)
def test_the_time_of_a_token_is_told_of_streams_that_were_counted_and_ended_well(
    told: dict[str, Any], seconds: float | None
) -> None:
    whole: dict[str, Any] = {"status": "complete", "usage": Usage(3, 5), "duration": 1.5, "first_token": 0.5}
    assert _each_token(Outcome(http_status=200, **{**whole, **told})) == seconds
