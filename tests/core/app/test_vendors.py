"""Vendors of plugins: by which name and operation they are called."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gatehook import (
    Attempt,
    Chunk,
    Command,
    Completion,
    Endpoint,
    Route,
    ServiceKey,
    StreamBuilder,
    Target,
    Usage,
    completion,
)
from gatehook.app import Gateway

Ask = Callable[..., Any]
Specimen = Callable[..., type]
Build = Callable[..., Gateway]
Told = Callable[..., list[str]]
Asking = Callable[[Gateway], AbstractAsyncContextManager[Ask]]
MakeRoute = Callable[..., Route]

CHAT = "[plugins.openai_api]\n[plugins.route_models]\n"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Vendor:
    """Answers with its own name."""

    parameters: Mapping[str, Any] = {}

    def __init__(self, name: str = "specimen", operations: Iterable[str] = ("chat",)) -> None:
        self.name = name
        self.operations = frozenset(operations)

    async def complete(self, attempt: Attempt) -> Completion:
        message = {"role": "assistant", "content": f"I am {self.name}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(3, 4))

    async def stream(self, attempt: Attempt) -> AsyncIterator[list[Chunk]]:
        answer = StreamBuilder(attempt.call)
        yield [answer.text(f"I am {self.name}")]
        yield [answer.finish("stop"), answer.usage(Usage(3, 4))]


def model(vendor: str = "specimen", name: str = "m", more: str = "") -> str:
    return f'[[models]]\nname = "{name}"\nvendor = "{vendor}"\n{more}\n'


async def test_hook_register_vendors_answers_under_its_name_in_any_case(
    specimen: Specimen, build: Build, asking: Asking
) -> None:
    plugin = specimen(register_vendors=[Vendor("acme")])
    async with asking(build(CHAT + model("ACME"), acme=plugin)) as ask:
        plain = await ask("POST", "/v1/chat/completions", json=HELLO)
        streamed = await ask("POST", "/v1/chat/completions", json=HELLO | {"stream": True})
    assert plain.status == 200
    assert plain.json["choices"][0]["message"]["content"] == "I am acme"
    assert plain.json["usage"]["total_tokens"] == 7
    assert plain.headers["X-Gatehook-Deployment"] == "m#1"
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.body.count(b"I am acme") == 1
    assert streamed.body.endswith(b"data: [DONE]\n\n")


def test_hook_register_vendors_one_plugin_may_bring_several(specimen: Specimen, build: Build) -> None:
    gateway = build(many=specimen(register_vendors=[Vendor("a"), Vendor("b")]))
    assert list(gateway.vendors) == ["a", "b"]


def test_a_vendor_name_taken_twice_is_an_error_naming_both_plugins(specimen: Specimen, told: Told) -> None:
    one, two = (specimen(register_vendors=[Vendor("acme")]) for _ in range(2))
    assert told(one=one, two=two) == ["vendor 'acme' is provided by both 'one' and 'two'; disable one"]


def test_collisions_of_vendors_routes_and_services_are_all_told_at_once(
    specimen: Specimen, told: Told, route: MakeRoute
) -> None:
    key: ServiceKey[object] = ServiceKey("store", provider="store")
    plugin = specimen(
        register_vendors=[Vendor("a"), Vendor("b")], register_routes=[route("GET", "/x"), route("GET", "/y")]
    )
    assert len(told(one=plugin, two=plugin)) == 4
    services = specimen(register_services=[(key, 1)])
    assert len(told(one=services, two=services, three=services)) == 2


async def test_an_unknown_vendor_is_a_400_at_request_time_and_a_fault_for_check(
    specimen: Specimen, build: Build, asking: Asking
) -> None:
    gateway = build(CHAT + model("nobody"), acme=specimen(register_vendors=[Vendor("acme")]))
    assert list(gateway.faults()) == ["[[models]] m#1: no enabled plugin provides vendor 'nobody', only: acme"]
    async with asking(gateway) as ask:
        answer = await ask("POST", "/v1/chat/completions", json=HELLO)
    assert answer.status == 400
    assert answer.json["error"] == {
        "message": "model 'm' is configured with vendor 'nobody', which no enabled plugin provides",
        "type": "invalid_request_error",
        "param": "model",
        "code": "unknown_vendor",
    }


async def test_an_operation_that_the_vendor_does_not_offer_is_a_400(
    specimen: Specimen, build: Build, asking: Asking
) -> None:
    async with asking(build(CHAT + model(), acme=specimen(register_vendors=[Vendor()]))) as ask:
        answer = await ask("POST", "/v1/embeddings", json={"model": "m", "input": "x"})
    assert answer.status == 400
    assert answer.json["error"]["code"] == "unsupported_operation"
    assert answer.json["error"]["message"] == "vendor 'specimen' does not offer embeddings"


async def test_a_deployment_with_an_unknown_vendor_gives_way_to_the_next(
    specimen: Specimen, build: Build, asking: Asking
) -> None:
    settings = CHAT + model("nobody") + model("acme", more="priority = 2")
    async with asking(build(settings, acme=specimen(register_vendors=[Vendor("acme")]))) as ask:
        answer = await ask("POST", "/v1/chat/completions", json=HELLO)
    assert (answer.status, answer.headers["X-Gatehook-Deployment"]) == (200, "m#2")


def test_a_vendor_s_own_check_is_part_of_the_gateway_s_faults(specimen: Specimen, build: Build) -> None:
    class Picky(Vendor):
        def check(self, target: Target) -> Iterable[str]:
            return [f"options: no {target.model}"]

    gateway = build(CHAT + model(), picky=specimen(register_vendors=[Picky()]))
    assert list(gateway.faults()) == ["[[models]] m#1: options: no m"]


def test_endpoint_is_post_only() -> None:
    assert Endpoint.method == "POST"


def test_commands_are_plain_values() -> None:
    assert Command("a", "b", len).run(["x"]) == 1


async def test_vendors_tidy_up_after_a_job_and_one_that_cannot_keeps_no_other_from_it(
    specimen: Specimen, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    seen = list[str]()

    class Tidy(Vendor):
        async def tidy(self, name: str) -> None:
            seen.append(f"{self.name} {name}")
            if self.name == "b":
                raise ZeroDivisionError

    gateway = build(many=specimen(register_vendors=[Vendor("a"), Tidy("b"), Tidy("c")]))
    await gateway.tidy("job_1")
    assert seen == ["b job_1", "c job_1"]
    assert "the vendor 'b' could not tidy up after job_1" in caplog.text
