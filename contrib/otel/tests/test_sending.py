"""What a collector on a real socket gets, and what happens when there is none."""

import time

import pytest
from aiohttp import ClientSession
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gatehook.testing import Reply, StubUpstream, serving
from gatehook_otel import OtelPlugin

PLUGINS = {"otel": OtelPlugin}
ASK = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_collector_gets_spans_and_metrics_when_the_gateway_ends(settings: str) -> None:
    async with StubUpstream(Reply(content_type="application/x-protobuf")) as stub:
        more = f'endpoint = "{stub.url}/"\nheaders = {{ X-Key = "collector-key" }}\nservice_name = "ours"\nusers = true'
        async with (
            serving(settings.replace("users = true", more), plugins=PLUGINS) as served,
            ClientSession() as session,
            session.post(f"{served.url}/v1/chat/completions", json=ASK) as answer,
        ):
            assert answer.status == 200
    by_path = {request.path: request for request in stub.requests}
    assert set(by_path) == {"/v1/traces", "/v1/metrics"}
    assert {request.headers["x-key"] for request in stub.requests} == {"collector-key"}
    (resource,) = ExportTraceServiceRequest.FromString(by_path["/v1/traces"].body).resource_spans
    told = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert told["service.name"] == "ours"
    assert told["service.instance.id"]
    assert {span.name for scope in resource.scope_spans for span in scope.spans} == {"chat good", "chat echo"}
    (measured,) = ExportMetricsServiceRequest.FromString(by_path["/v1/metrics"].body).resource_metrics
    names = {metric.name for scope in measured.scope_metrics for metric in scope.metrics}
    assert names == {
        "gen_ai.server.request.duration",
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
    }


async def many(url: str) -> None:
    async with ClientSession() as session:
        for _ in range(20):
            async with session.post(f"{url}/v1/chat/completions", json=ASK) as answer:
                assert answer.status == 200


@pytest.mark.parametrize("end", ["refused", "silence"])
async def test_a_collector_that_is_away_or_silent_costs_no_request_and_not_the_end(settings: str, end: str) -> None:
    async with StubUpstream(Reply(status=0, end="silence")) as stub:
        url = stub.url if end == "silence" else "http://127.0.0.1:9"
        more = f'endpoint = "{url}"\ntimeout = 1\nusers = true'
        async with serving(settings.replace("users = true", more), plugins=PLUGINS) as served:
            await many(served.url)
            ending = time.monotonic()
    assert time.monotonic() - ending < 8


def test_the_collector_s_key_is_not_shown() -> None:
    settings = OtelPlugin.Settings.model_validate({"headers": {"X-Key": "collector-key"}})
    assert "collector-key" not in repr(settings)
