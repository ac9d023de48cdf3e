"""The suite for tools that the gateway runs: whatever the arguments, the model gets a text, or a reason why not."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from typing import Any, ClassVar

from gatehook.app import Gateway
from gatehook.errors import GatewayError
from gatehook.jsonio import Document, encode
from gatehook.model import Call, Principal, ToolCall
from gatehook.protocols import Tool
from gatehook.testing.conformance.bench import logged
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered
from gatehook.tool_schema import ToolSchema, compiled, schema_fault

__all__ = ["ToolConformance"]

ODD: Sequence[Any] = (
    "", " ", "\0", "\ud800", "ü" * 300, "../../etc/passwd", "a/b?c=d&e#f", "\r\nX-Odd: 1", "{}", "'; --", "%s%n{0}",
    "x" * 100_000, 0, -1, 1 << 70, 1e308, -0.5, True, None, [], {},
)  # fmt: skip
"""Values that models write at times; a tool gets those that its schema lets through."""
_PATIENCE = 5.0
"""Seconds after which a run counts as hanging."""
_AT_ONCE = 5
_STEPS = 10
"""Turns of the loop after which a run is cancelled."""


class ToolConformance(Suite):
    """Subclass it, and give calls that are `good`, and calls that fit a tool's schema and yet are `bad`."""

    kind: ClassVar[str] = "tool"
    good: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Names and arguments of calls that succeed, at least one for each tool. They are made often, also with odd values
    in their arguments."""
    bad: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Calls that fit the schema, and cannot be done."""
    secrets: Sequence[str] = ()
    """Parts of `settings` that nobody may read."""
    repeats: bool = True
    """Whether the same call has the same result each time."""
    budget: float = 0.1
    """Seconds for which one run may block the event loop."""
    token: str = "canary.3e9c41d07ab2"  # noqa: S105  # of nobody
    """The credential that clients show."""

    def call(self) -> Call:
        """A chat whose model is told of the tools."""
        call = Call("chat", "openai", {"Authorization": f"Bearer {self.token}"}, principal=Principal("ann"), model="m")
        call.body = Document({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        return call

    def stranger(self) -> Call | None:
        """A chat whose model is told of none of them; None if there is no such chat."""
        return None

    def broken(self, gateway: Gateway) -> AbstractAsyncContextManager[None]:
        """While this context is open, the service that the tools use is away."""
        not_offered("the tools use no service, or the suite is not told how it can be away")

    def tools(self, gateway: Gateway, call: Call | None = None) -> Mapping[str, Tool]:
        """The tools that a call's model is told of, by their names."""
        call, own = call or self.call(), gateway.pipeline.concerns.own_tools
        if own is not None:
            own.offer(call)
        return call.own_tools

    def tool(self, gateway: Gateway, name: str) -> Tool:
        """One of them."""
        tools = self.tools(gateway)
        expect(name in tools, f"no model is told of {name!r}; there are: {', '.join(tools) or 'none'}")
        return tools[name]

    async def run(self, tool: Tool, arguments: Mapping[str, Any]) -> str | GatewayError:
        """The result of one call: a text, or the error that the model is told. Anything else fails the check."""
        shown = _shown(tool.name, arguments)
        try:
            async with asyncio.timeout(_PATIENCE) as limit:
                result = await tool.run(self.call(), deepcopy(dict(arguments)))
        except GatewayError as error:
            expect(error.message, f"{shown} raises {error!r}, which has no message for the model")
            return error
        except Exception as error:  # noqa: BLE001  # whatever it is
            expect(not limit.expired(), f"{shown} has no end within {_PATIENCE:g} s")
            expect(False, f"{shown} raises {error!r}; only of a GatewayError is the model told why")
        expect(isinstance(result, str), f"{shown} gives {type(result).__name__}, and no text")
        return result

    async def done(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """The text that is the result of a good call."""
        result = await self.run(tool, arguments)
        expect(isinstance(result, str), f"{_shown(tool.name, arguments)}, a good call, raises {result!r}")
        return str(result)

    @check("what models are told")
    async def test_each_tool_tells_what_it_does_and_takes(self) -> None:
        async with self.running() as gateway:
            tools = self.tools(gateway)
            expect(tools, "models are told of no tool at all; see `settings` and `call()`")
            for name, tool in tools.items():
                told = tool.description
                expect(isinstance(told, str) and told.strip(), f"{name!r} does not tell what it does: {told!r}")
                fault = schema_fault(dict(tool.parameters))
                expect(not fault, f"{name!r}: parameters: {fault}")
            again = list(self.tools(gateway))
            expect(again == list(tools), f"models are told of {list(tools)}, the second time of {again}")
            untold = set(tools).difference(name for name, _ in (*self.good, *self.bad))
            expect(
                not untold, f"{type(self).__name__}.good: tell a call of each tool; there is none of {sorted(untold)}"
            )

    @check("good calls")
    async def test_a_good_call_has_a_text_through_the_gateway_too(self) -> None:
        async with self.running() as gateway:
            for name, arguments in self.good:
                shown, tool = _shown(name, arguments), self.tool(gateway, name)
                fault = _schema(tool).misfit(arguments)
                expect(not fault, f"{shown}, a good call, does not fit the schema: {fault}")
                text = await self.done(tool, arguments)
                expect(_is_unicode(text), f"{shown} gives a text that cannot be written as UTF-8")
                told = await gateway.execute(self.call(), ToolCall("call_1", name, encode(dict(arguments)).decode()))
                is_same = told == text if self.repeats else not told.startswith("error: ")
                expect(is_same, f"{shown} gives {text[:80]!r}, and through the gateway {told[:80]!r}")

    @check("bad calls")
    async def test_the_model_is_told_why_a_call_cannot_be_done(self) -> None:
        if not self.bad:
            not_offered("every call that fits the schema can be done (`bad` is empty)")
        async with self.running() as gateway:
            for name, arguments in self.bad:
                tool, shown = self.tool(gateway, name), _shown(name, arguments)
                fault = _schema(tool).misfit(arguments)
                expect(not fault, f"{shown}, a bad call, is never made: it does not fit the schema: {fault}")
                result = await self.run(tool, arguments)
                expect(isinstance(result, GatewayError), f"{shown}, a bad call, gives {result!r} instead of an error")

    @check("odd values")
    async def test_whatever_fits_the_schema_comes_to_a_text_or_a_reason_and_breaks_nothing(self) -> None:
        async with self.running() as gateway:
            for name, arguments in self.good:
                tool = self.tool(gateway, name)
                for odd in _odd(arguments):
                    if not _schema(tool).misfit(odd):
                        await self.run(tool, odd)
                await self.done(tool, arguments)

    @check("nothing is changed")
    async def test_neither_the_arguments_nor_the_call_are_changed(self) -> None:
        async with self.running() as gateway:
            for name, arguments in self.good:
                call, given = self.call(), deepcopy(dict(arguments))
                kept = deepcopy((given, call.payload, dict(call.headers), call.model))
                await self.tool(gateway, name).run(call, given)
                now = (given, call.payload, dict(call.headers), call.model)
                expect(now == kept, f"{_shown(name, arguments)} changes {kept} to {now}")

    @check("many at once")
    async def test_runs_at_the_same_time_know_nothing_of_each_other(self) -> None:
        async with self.running() as gateway:
            wanted = [(self.tool(gateway, name), arguments) for name, arguments in self.good]
            alone = [await self.done(*one) for one in wanted]
            together = await asyncio.gather(*(self.done(*one) for one in wanted * _AT_ONCE))
            for (tool, arguments), first, text in zip(wanted * _AT_ONCE, alone * _AT_ONCE, together, strict=True):
                shown = _shown(tool.name, arguments)
                expect(text == first or not self.repeats,
                       f"{shown} gives {first[:80]!r} alone, and beside others {text[:80]!r}")  # fmt: skip

    @check("cancellation")
    async def test_a_run_whose_client_leaves_or_whose_time_is_over_ends(self) -> None:
        async with self.running() as gateway:
            for name, arguments in self.good:
                tool = self.tool(gateway, name)
                for wait in (0.0, 0.0005, 0.002, 0.01):
                    for steps in range(_STEPS):
                        await self.cancelled(tool, arguments, steps, wait)
                await self.done(tool, arguments)

    async def cancelled(self, tool: Tool, arguments: Mapping[str, Any], steps: int, wait: float) -> None:
        """Cancel a run after so many turns of the event loop, and seconds."""
        shown = _shown(tool.name, arguments)
        running = asyncio.ensure_future(tool.run(self.call(), deepcopy(dict(arguments))))
        for _ in range(steps):
            await asyncio.sleep(0)
        if wait:
            await asyncio.sleep(wait)
        if not running.cancel():
            return
        await asyncio.wait([running], timeout=_PATIENCE)
        expect(running.done(), f"{shown}, cancelled, has no end within {_PATIENCE:g} s")
        expect(running.cancelled(), f"{shown} goes on although it is cancelled: CancelledError must not be swallowed")

    @check("services away")
    async def test_the_model_is_told_that_what_a_tool_asks_is_away(self) -> None:
        async with self.running() as gateway:
            wanted = [(self.tool(gateway, name), arguments) for name, arguments in self.good]
            async with self.broken(gateway):
                for tool, arguments in wanted:
                    result = await self.run(tool, arguments)
                    shown = _shown(tool.name, arguments)
                    expect(isinstance(result, GatewayError), f"{shown} gives {result!r} while what it asks is away")

    @check("suited calls")
    async def test_models_that_it_is_not_for_are_not_told_of_it(self) -> None:
        stranger = self.stranger()
        if stranger is None:
            not_offered("every model is told of it (`stranger()` gives None)")
        async with self.running() as gateway:
            told = list(self.tools(gateway, stranger))
            expect(not told, f"the model of a chat that they are not for is told of {told}")

    @check("secrets")
    async def test_no_secret_is_told_to_models_or_written_to_a_log(self) -> None:
        texts: dict[str, str] = {}
        with logged() as log:
            async with self.running() as gateway:
                for name, arguments in (*self.good, *self.bad):
                    tool = self.tool(gateway, name)
                    texts[f"what models are told of {name!r}"] = f"{tool.description} {dict(tool.parameters)!r}"
                    texts[f"the repr() of {name!r}"] = repr(tool)
                    result = await self.run(tool, arguments)
                    texts[f"what comes of {_shown(name, arguments)}"] = f"{result} {result!r}"
        texts["the log"] = "\n".join(log.lines)
        places = [place for place, text in texts.items() if any(one in text for one in (*self.secrets, self.token))]
        expect(not places, f"a secret can be read in {', '.join(places)}")

    @check("latency")
    async def test_a_run_blocks_nobody(self) -> None:
        async with self.running() as gateway:
            for name, arguments in self.good:
                tool, least = self.tool(gateway, name), float("inf")
                for _ in range(3):  # the quickest counts, as the machine may be busy with other things
                    async with _pauses() as pauses:
                        await self.done(tool, arguments)
                    least = min(least, max(pauses))
                expect(least <= self.budget, f"{_shown(name, arguments)} blocks all calls for {least * 1000:.0f} ms")


@asynccontextmanager
async def _pauses() -> AsyncIterator[list[float]]:
    """Measures the pauses of the event loop, in seconds, while this context is open."""
    pauses = [0.0]

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        yield pauses
        await asyncio.sleep(0.005)  # the pause that was the last
    finally:
        watching.cancel()


def _odd(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments with odd values for each, without each, and with an unexpected one."""
    for name in arguments:
        for value in ODD:
            yield {**arguments, name: value}
        yield {other: value for other, value in arguments.items() if other != name}
    yield {**arguments, "x_odd": "odd"}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _schema(tool: Tool) -> ToolSchema:
    return compiled(encode(dict(tool.parameters)))


def _shown(name: str, arguments: Mapping[str, Any]) -> str:
    """A call, for a message."""
    return f"{name}({repr(dict(arguments))[:120]})"
