import re
import threading
import time
import timeit
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from pydantic import ValidationError

from gatehook import (
    CATALOG,
    Call,
    GatewayError,
    Observer,
    Outcome,
    Route,
    Services,
    Target,
    UpstreamError,
    Usage,
    Vitality,
)
from gatehook.catalog import LiveCatalog
from gatehook_plugins.metrics import Metrics
from gatehook_plugins.metrics.exposition import Shown, serve
from gatehook_plugins.metrics.numbers import Numbers, observe
from gatehook_plugins.metrics.recorder import (
    DURATIONS,
    FIRST_TOKENS,
    MAX_CODES,
    REQUESTS,
    TOKEN_KINDS,
    TOKENS,
    Recorder,
)
from gatehook_plugins.metrics.totals import Labels, Totals

TARGET = Target(key="gpt#1", name="gpt", vendor="openai", model="gpt-2024")
Status = Literal["complete", "partial", "failed", "rejected", "cached"]


class Served:
    """The plugin as a gateway has it."""

    def __init__(self, **settings: Any) -> None:
        services = Services()
        self.catalog = LiveCatalog([TARGET])
        services.provide(CATALOG, self.catalog, "test")
        gateway = cast("Any", SimpleNamespace(services=services))
        plugin = Metrics(Metrics.Settings(**settings))
        (observer,) = plugin.register_observers(gateway)
        self.observer = cast("Recorder", observer)
        (self.route,) = plugin.register_routes(gateway)

    def count(
        self, status: Status = "complete", *, target: Target | None = TARGET, model: str = "gpt", **outcome: Any
    ) -> None:
        call = Call(operation="chat", surface="test", headers={})
        call.model, call.target = model, target
        self.observer.started(call)
        self.observer.finished(call, Outcome(status, outcome.pop("http_status", 200), **outcome))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[TestClient[web.Request, web.Application]]:
        app = web.Application()
        app.router.add_route(self.route.method, self.route.path, self.route.handler)
        async with TestClient(TestServer(app)) as client:
            yield client

    async def scrape(self, accept: str = "") -> tuple[str, str]:
        async with self.client() as client, client.get("/metrics", headers={"Accept": accept}) as answer:
            assert answer.status == 200
            return answer.headers["Content-Type"], await answer.text()

    async def samples(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        _, text = await self.scrape()
        found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in read_text(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


async def test_tokens_are_counted_by_model_and_kind() -> None:
    served = Served()
    served.count(usage=Usage(10, 5, cached_tokens=4, reasoning_tokens=2))
    served.count(usage=Usage(1, 1))
    assert (await served.samples())["gateway_tokens_total"] == {
        labels(model="gpt", kind="prompt"): 11,
        labels(model="gpt", kind="completion"): 6,
        labels(model="gpt", kind="cached"): 4,
        labels(model="gpt", kind="reasoning"): 2,
    }


async def test_requests_are_counted_by_model_vendor_outcome_and_code() -> None:
    served = Served()
    served.count()
    served.count()
    served.count("failed", http_status=502, code="upstream_error")
    served.count("rejected", target=None, http_status=429, code="rate_limit_exceeded")
    served.count("cached", target=None)
    assert (await served.samples())["gateway_requests_total"] == {
        labels(model="gpt", vendor="openai", outcome="complete", code=""): 2,
        labels(model="gpt", vendor="openai", outcome="failed", code="upstream_error"): 1,
        labels(model="gpt", vendor="none", outcome="rejected", code="rate_limit_exceeded"): 1,
        labels(model="gpt", vendor="none", outcome="cached", code=""): 1,
    }


async def test_names_that_clients_make_up_get_no_series() -> None:
    served = Served()
    for number in range(50):
        served.count("rejected", target=None, model=f"made-up-{number}", http_status=404, code="model_not_found")
    assert (await served.samples())["gateway_requests_total"] == {
        labels(model="unknown", vendor="none", outcome="rejected", code="model_not_found"): 50
    }


async def test_codes_that_vendors_make_up_are_bounded() -> None:
    served = Served()
    for number in range(MAX_CODES * 2):
        served.count("failed", http_status=400, code=f"made-up-{number}")
    served.count("failed", http_status=400, code="x" * 1000)
    samples = (await served.samples())["gateway_requests_total"]
    assert len(samples) == MAX_CODES + 1
    assert samples[labels(model="gpt", vendor="openai", outcome="failed", code="other")] == MAX_CODES + 1


async def test_without_a_catalog_a_call_that_was_not_routed_is_of_an_unknown_model() -> None:
    recorder = Recorder()
    call = Call(operation="chat", surface="test", headers={})
    call.model = "gpt"
    recorder.finished(call, Outcome("rejected", 401))
    totals = Totals([(recorder.numbers.page(), True)])
    assert list(totals.family(REQUESTS)) == [("unknown", "none", "rejected", "")]


async def test_requests_in_flight_go_up_and_down() -> None:
    served = Served()
    calls = [Call(operation="chat", surface="test", headers={}) for _ in range(3)]
    for call in calls:
        served.observer.started(call)
    assert (await served.samples())["gateway_requests_in_flight"] == {(): 3}
    for call in calls:
        served.observer.finished(call, Outcome("failed", 500))
    assert (await served.samples())["gateway_requests_in_flight"] == {(): 0}


@pytest.mark.parametrize(
    ("error", "code"),
    [(UpstreamError("cut", code="upstream_truncated"), "upstream_truncated"), (GatewayError("x"), "server_error")],
)
async def test_failed_attempts_are_counted_even_if_another_succeeds(error: GatewayError, code: str) -> None:
    served = Served()
    served.observer.attempt_failed(Call(operation="chat", surface="test", headers={}), TARGET, error)
    assert (await served.samples())["gateway_upstream_failures_total"] == {
        labels(vendor="openai", model="gpt", code=code): 1
    }


async def test_durations_are_a_histogram_by_operation_and_status() -> None:
    served = Served()
    for duration in (0.001, 0.3, 0.3, 9999.0):
        served.count(duration=duration)
    served.count("failed", http_status=502, duration=1.0)
    samples = await served.samples()
    ok = {"operation": "chat", "status": "200"}
    buckets = samples["http_request_duration_seconds_bucket"]
    assert buckets[labels(**ok, le="0.005")] == 1
    assert buckets[labels(**ok, le="0.25")] == 1
    assert buckets[labels(**ok, le="0.5")] == 3
    assert buckets[labels(**ok, le="600.0")] == 3
    assert buckets[labels(**ok, le="+Inf")] == 4
    assert samples["http_request_duration_seconds_count"][labels(**ok)] == 4
    assert samples["http_request_duration_seconds_sum"][labels(**ok)] == pytest.approx(9999.601)
    assert samples["http_request_duration_seconds_count"][labels(operation="chat", status="502")] == 1


async def test_the_time_to_the_first_token_is_a_histogram_by_model() -> None:
    served = Served()
    served.count(first_token=0.2)
    served.count()
    samples = await served.samples()
    assert samples["gateway_time_to_first_token_seconds_count"] == {labels(model="gpt"): 1}
    assert samples["gateway_time_to_first_token_seconds_bucket"][labels(model="gpt", le="0.25")] == 1


def test_a_value_on_a_bound_lies_below_it() -> None:
    numbers = Numbers()
    place = numbers.place(("values",), 4)
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        observe(numbers.cells, place, (1.0, 2.0), value)
    assert list(numbers.page().series()) == [(("values",), [2, 2, 1, 7.5])]


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(["complete", "partial", "failed", "rejected", "cached"]),
        st.sampled_from([200, 429, 502]),
        st.sampled_from(["", "upstream_error", "x" * 300]),
        st.none() | st.builds(Usage, *[st.integers(0, 50)] * 3),
        st.none() | st.sampled_from([0.02, 0.3]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_everything_that_ends_is_counted_once_where_it_belongs(events: Sequence[tuple[Any, ...]]) -> None:
    served = Served()
    requests, tokens, durations = Counter[Labels](), Counter[Labels](), Counter[Labels]()
    first_tokens = Counter[Labels]()
    for number, status, http_status, code, usage, first in events:
        name = f"model-{number}" * 20  # so long that the memory has to grow
        target = Target(key=name, name=name, vendor="v", model="m") if number else None
        model, vendor = (name, "v") if target else ("gpt", "none")
        details = {"http_status": http_status, "code": code, "usage": usage, "first_token": first}
        served.count(status, target=target, duration=0.2, **details)
        requests[model, vendor, status, "other" if len(code) > 64 else code] += 1
        durations["chat", str(http_status)] += 1
        first_tokens[(model,)] += first is not None
        if usage is not None:
            tokens[model, "prompt"] += usage.prompt_tokens
            tokens[model, "completion"] += usage.completion_tokens
            tokens[model, "cached"] += usage.cached_tokens
    totals = Totals([(served.observer.numbers.page(), True)])
    assert totals.running == 0
    assert {place: count for place, (count,) in totals.family(REQUESTS).items()} == requests
    found = {
        (model, kind): cell
        for (model,), cells in totals.family(TOKENS).items()
        for kind, cell in zip(TOKEN_KINDS, cells, strict=True)
    }
    assert {place: count for place, count in found.items() if count} == +tokens
    assert {place: sum(cells[:-1]) for place, cells in totals.family(DURATIONS).items()} == durations
    assert {place: sum(cells[:-1]) for place, cells in totals.family(FIRST_TOKENS).items()} == +first_tokens


async def test_an_alias_counts_as_its_model_from_the_moment_that_it_is_one() -> None:
    served = Served()
    served.count("rejected", target=None, model="nick")
    served.catalog.feed("test", [Target(key="other#1", name="other", vendor="v", model="m", aliases=("nick",))])
    served.count("rejected", target=None, model="nick")
    served.catalog.feed("test", [])
    served.count("rejected", target=None, model="nick")
    assert (await served.samples())["gateway_requests_total"] == {
        labels(model="unknown", vendor="none", outcome="rejected", code=""): 2,
        labels(model="other", vendor="none", outcome="rejected", code=""): 1,
    }


def test_what_clients_and_vendors_make_up_fills_no_memory() -> None:
    served = Served()
    for number in range(2500):
        served.count("failed", http_status=502, code=f"made-up-{number}")
        served.count("rejected", target=None, model=f"made-up-{number}")
    served.count(target=Target(key="w#1", name="w" * 10**6, vendor="v", model="m"))
    assert len(served.observer._kinds) <= 1000
    assert all(len(name) + len(code) <= 200 for name, _, _, _, _, code, *_ in served.observer._kinds)


async def test_feathergate_names_are_exact_and_only_on_demand() -> None:
    served = Served(feathergate_names=True)
    served.count()
    served.count("cached", target=None)
    served.count("failed", http_status=502)
    served.count("partial")
    samples = await served.samples()
    assert samples["feathergate_requests_total"] == {(): 4}
    assert samples["feathergate_requests_successful"] == {(): 2}
    assert samples["feathergate_requests_failed"] == {(): 2}
    assert not any(name.startswith("feathergate") for name in await Served().samples())


async def test_the_process_is_told_of_only_on_demand() -> None:
    plain = await Served().samples()
    assert not any(name.startswith(("process_", "python_")) for name in plain)
    detailed = await Served(process=True).samples()
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections_total"} <= detailed.keys()


async def test_two_gateways_in_one_process_do_not_mix() -> None:
    one, other = Served(process=True), Served(process=True)
    one.count()
    assert (await one.samples())["gateway_requests_total"]
    assert "gateway_requests_total" not in await other.samples()


async def test_prometheus_text_is_the_default() -> None:
    served = Served()
    served.count()
    content_type, text = await served.scrape()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert re.search(r"^# TYPE gateway_tokens_total counter$", text, re.MULTILINE)
    assert re.search(r"^# TYPE http_request_duration_seconds histogram$", text, re.MULTILINE)


async def test_openmetrics_is_given_to_those_who_ask() -> None:
    served = Served(feathergate_names=True, process=True)
    served.count(usage=Usage(1, 1), first_token=0.1)
    content_type, text = await served.scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = read_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {"gateway_tokens", "feathergate_requests_failed"} <= {family.name for family in families}


@pytest.mark.parametrize("version", ["banana", "1.0.0; escaping=banana", "9.9.9", ""])
async def test_any_version_of_openmetrics_gets_the_one_there_is(version: str) -> None:
    content_type, _ = await Served().scrape(f"application/openmetrics-text; version={version}")
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"


async def test_whoever_asks_for_something_else_gets_text() -> None:
    content_type, _ = await Served().scrape("text/html, */*; q=0.1")
    assert content_type.startswith("text/plain")


async def test_any_name_of_a_model_is_escaped() -> None:
    served = Served()
    name = 'quote " back \\ line \n end'
    served.count(target=Target(key="x#1", name=name, vendor="v", model="m"))
    assert (
        labels(model=name, vendor="v", outcome="complete", code="")
        in (await served.samples())["gateway_requests_total"]
    )


@pytest.mark.parametrize(
    ("written", "auth"),
    [({}, False), ({"auth": "user"}, "user"), ({"auth": "admin"}, "admin"), ({"auth": "false"}, False)],
)
def test_who_may_read_is_the_operators_choice(written: Mapping[str, Any], auth: object) -> None:
    route = Served(**written).route
    assert isinstance(route, Route)
    assert (route.method, route.path, route.auth) == ("GET", "/metrics", auth)


def test_a_senseless_auth_is_a_fault() -> None:
    with pytest.raises(ValidationError, match="auth"):
        Metrics.Settings(auth="root")  # type: ignore[arg-type]


def test_no_method_is_called_for_each_chunk_or_first_token() -> None:
    assert Recorder.chunk is Observer.chunk
    assert Recorder.first_token is Observer.first_token


def test_a_request_costs_little() -> None:
    served = Served()
    call = Call(operation="chat", surface="test", headers={})
    call.model, call.target = "gpt", TARGET
    outcome = Outcome("complete", 200, Usage(10, 20, 5, 0, 3), "", 0.3, 0.1)

    def observe() -> None:
        served.observer.started(call)
        served.observer.finished(call, outcome)

    best = min(timeit.repeat(observe, timer=time.process_time, number=2000, repeat=5)) / 2000
    assert best < 25e-6, "five times what it may cost on a free machine"


async def test_how_deployments_do_is_asked_by_the_thread_that_learns_it() -> None:
    asked: list[int] = []

    def vitalities() -> Mapping[str, Vitality]:
        asked.append(threading.get_ident())
        return {"gpt#1": Vitality()}

    shown = Shown(list, process=False, feathergate_names=False, plugin_times=False, deployments=vitalities)
    page = await serve(shown, make_mocked_request("GET", "/metrics"))
    assert asked == [threading.get_ident()]
    assert isinstance(page.body, bytes)
    assert b'gateway_deployment_state{deployment="gpt#1"} 0.0' in page.body
