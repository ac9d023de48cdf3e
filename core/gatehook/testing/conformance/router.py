"""The suite for routers: which models they know, in which order they name deployments, and that they change nothing."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

from gatehook.app import Gateway
from gatehook.awaiting import awaited
from gatehook.errors import GatewayError
from gatehook.jsonio import Document
from gatehook.model import Call, Target
from gatehook.protocols import Router
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered

__all__ = ["RouterConformance"]

MODELS = """
[[models]]
name = "one"
vendor = "mock"
model = "m1"
fallbacks = ["several"]
[[models]]
name = "several"
vendor = "mock"
model = "m2"
priority = 2
[[models]]
name = "several"
vendor = "mock"
model = "m3"
priority = 1
[[models]]
name = "several"
vendor = "mock"
model = "m4"
priority = 1
api_key = "env:GATEHOOK_CONFORMANCE_NOBODY_SETS_THIS"
[[models]]
name = "away"
vendor = "mock"
model = "m5"
api_key = "env:GATEHOOK_CONFORMANCE_NOBODY_SETS_THIS"
"""
UNKNOWN = ("", "nobody-knows-this", "ONE", "one ", "one\0", "sev*ral", "../one", "ö" * 300, "\ud800")
_TIMES = 40


class RouterConformance(Suite):
    """Subclass it. A router that goes by the `[[models]]` needs nothing more; another one says what it `knows`."""

    kind: ClassVar[str] = "router"
    models: str = MODELS
    """The `[[models]]` tables."""
    knows: Sequence[str] = ("one", "several")
    """The models that it has targets for."""
    by_the_models: bool = True
    """Whether it goes by the `fallbacks` and the `priority` of the `[[models]]`."""

    def written(self, more: str = "") -> str:
        """The settings, with the models."""
        return super().written(f"{self.models}\n{more}")

    def router(self, gateway: Gateway) -> Router:
        """The router in question."""
        return self.own(gateway.pipeline.concerns.routers, "router")

    def call(self, model: str) -> Call:
        """A call of a model."""
        call = Call("chat", "openai", {"X-Session": "a"}, model=model)
        call.body = Document({"model": model, "messages": [{"role": "user", "content": "hi"}]})
        return call

    async def routed(self, router: Router, model: str) -> Sequence[Target]:
        """The targets of a model that it knows."""
        targets = await awaited(router.route(self.call(model)))
        expect(targets, f"{model!r}: no targets, though it is among those that the suite says it `knows`")
        return targets or ()

    @check("known models")
    async def test_a_known_model_has_targets(self) -> None:
        async with self.running() as gateway:
            for model in self.knows:
                targets = await self.routed(self.router(gateway), model)
                others = [one for one in targets if not isinstance(one, Target)]
                expect(not others, f"{model!r}: {others} are no Targets")
                keys = [target.key for target in targets]
                expect(len(set(keys)) == len(keys), f"{model!r}: a deployment comes twice: {keys}")

    @check("unknown models")
    async def test_of_an_unknown_model_it_says_nothing(self) -> None:
        """Another router may know it: None, or no targets, and no error."""
        async with self.running() as gateway:
            router = self.router(gateway)
            for model in UNKNOWN:
                if model in self.knows:
                    continue
                try:
                    targets = await awaited(router.route(self.call(model)))
                except Exception as error:  # noqa: BLE001  # whatever it is
                    expect(False, f"{model!r}: raises {error!r} instead of giving None")
                expect(not targets, f"{model!r}: nobody configured it, and it has targets")

    @check("the same targets")
    async def test_asked_again_it_names_the_same_targets(self) -> None:
        """The order may differ, as in routers that balance."""
        async with self.running() as gateway:
            for model in self.knows:
                sets = {
                    frozenset(one.key for one in await self.routed(self.router(gateway), model)) for _ in range(_TIMES)
                }
                expect(
                    len(sets) == 1, f"{model!r}: asked {_TIMES} times, it names {len(sets)} different sets of targets"
                )

    @check("priorities")
    async def test_better_priorities_come_first(self) -> None:
        await self._in_order("priority", lambda model, target: (target.name != model, target.priority))

    @check("fallbacks")
    async def test_fallbacks_come_last(self) -> None:
        async with self.running() as gateway:
            self._by_the_models()
            names = [target.name for target in await self.routed(self.router(gateway), "one")]
            expect("several" in names, f"'one' falls back to 'several', but its targets are of {names}")
        await self._in_order("being a fallback", lambda model, target: target.name != model)

    async def _in_order(self, what: str, rank: Any) -> None:
        self._by_the_models()
        async with self.running() as gateway:
            for model in self.knows:
                for _ in range(_TIMES):
                    targets = await self.routed(self.router(gateway), model)
                    ranks = [rank(model, target) for target in targets]
                    keys = ", ".join(target.key for target in targets)
                    expect(ranks == sorted(ranks), f"{model!r}: the targets are not in the order of {what}: {keys}")

    @check("unavailable deployments")
    async def test_a_deployment_that_cannot_be_called_is_in_nobody_s_way(self) -> None:
        self._by_the_models()
        async with self.running() as gateway:
            router = self.router(gateway)
            for model in self.knows:
                for _ in range(_TIMES):
                    flags = [bool(target.unavailable) for target in await self.routed(router, model)]
                    expect(flags == sorted(flags), f"{model!r}: a deployment without a key comes before one that works")
            try:
                targets = await awaited(router.route(self.call("away")))
            except GatewayError:
                return  # it may say so itself
            expect(not targets, "'away' has nothing that could be called, and it has targets")

    @check("nothing is changed")
    async def test_neither_the_call_nor_what_was_given_before_is_changed(self) -> None:
        async with self.running() as gateway:
            router = self.router(gateway)
            for model in self.knows:
                call = self.call(model)
                before = _facts(call)
                given = await awaited(router.route(call))
                expect(_facts(call) == before, f"{model!r}: the call is {_facts(call)} after it, it was {before}")
                kept = list(given or ())
                if isinstance(given, list):
                    given.clear()  # as its caller may
                again = await self.routed(router, model)
                expect(
                    {one.key for one in again} == {one.key for one in kept},
                    f"{model!r}: a list that its caller emptied is empty for the next one",
                )

    def _by_the_models(self) -> None:
        if not self.by_the_models:
            not_offered("it has rules of its own (by_the_models is False)")


def _facts(call: Call) -> tuple[Any, ...]:
    """What a router must not change of a call: all but `state`."""
    return (
        call.operation,
        call.model,
        deepcopy(call.payload),
        call.stream,
        dict(call.headers),
        call.target,
        call.attempts,
    )
