"""The suite for tools bites: each fault is caught by its check, and a sound tool has none."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from gatehook import Call, Gateway, InvalidRequest, Section, Tool, Unavailable, hookimpl
from gatehook.testing.conformance import ToolConformance
from gatehook.testing.conformance.suite import capabilities

SECRET = "weather-key-5d1f"  # of nobody
KNOWN = {"Paris": "sunny", "Oslo": "snow"}
log = logging.getLogger("gatehook.specimen")


EVERYTHING = set(capabilities(ToolConformance))


class Weather:
    """The tool that has no fault, and what it asks; the checks that must find the others'."""

    caught: ClassVar[set[str]] = set()
    name = "weather"
    description = "The weather of a city."
    parameters: Mapping[str, Any] = MappingProxyType(
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 0}},
            "required": ["city"],
            "additionalProperties": False,
        }
    )

    def __init__(self) -> None:
        self.is_away = False
        self.runs = 0

    def suits(self, call: Call) -> bool:
        return call.model != "other"

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        self.runs += 1
        return await self.asked(arguments["city"], arguments.get("days", 1))

    async def asked(self, city: str, days: int) -> str:
        await asyncio.sleep(0)
        if self.is_away:
            raise Unavailable("the weather service is away")
        if city not in KNOWN:
            raise InvalidRequest("no such city")
        return f"{KNOWN[city]} for {min(days, 7)} days"


class SaysNothing(Weather):
    caught: ClassVar[set[str]] = {"what models are told"}
    description = " "


class ComesAndGoes(Weather):
    caught: ClassVar[set[str]] = EVERYTHING - {"bad calls"}
    asked_for = 0

    def suits(self, call: Call) -> bool:
        self.asked_for += 1
        return self.asked_for % 2 == 1


class GivesNumbers(Weather):
    caught: ClassVar[set[str]] = {
        "good calls", "odd values", "many at once", "cancellation", "services away", "secrets", "latency", "bad calls"
    }  # fmt: skip

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> Any:
        return len(arguments)


class HalfALetter(Weather):
    caught: ClassVar[set[str]] = {"good calls"}

    async def asked(self, city: str, days: int) -> str:
        return await super().asked(city, days) + "\ud83d"


class CountsItsRuns(Weather):
    caught: ClassVar[set[str]] = {"good calls", "many at once"}

    async def asked(self, city: str, days: int) -> str:
        return f"{await super().asked(city, days)}, as was asked {self.runs} times"


class TellsNoReason(Weather):
    caught: ClassVar[set[str]] = {"bad calls", "odd values", "secrets"}

    async def asked(self, city: str, days: int) -> str:
        if not self.is_away:
            KNOWN[city]
        return await super().asked(city, days)


class Pretends(Weather):
    caught: ClassVar[set[str]] = {"bad calls"}

    async def asked(self, city: str, days: int) -> str:
        try:
            return await super().asked(city, days)
        except InvalidRequest as error:
            return f"error: {error.message}"


class TrustsValues(Weather):
    caught: ClassVar[set[str]] = {"odd values"}

    async def asked(self, city: str, days: int) -> str:
        city.encode()
        return await super().asked(city, days)


class LosesItsConnection(Weather):
    caught: ClassVar[set[str]] = {"odd values"}

    async def asked(self, city: str, days: int) -> str:
        self.is_away = self.is_away or "\ud800" in city
        return await super().asked(city, days)


class EditsArguments(Weather):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    async def run(self, call: Call, arguments: Any) -> str:
        arguments.setdefault("days", 1)
        return await super().run(call, arguments)


class RenamesTheModel(Weather):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        call.model = "weather"
        return await super().run(call, arguments)


class SharesAPlace(Weather):
    caught: ClassVar[set[str]] = {"many at once"}
    place = ""

    async def asked(self, city: str, days: int) -> str:
        self.place = city
        await asyncio.sleep(0)
        return await super().asked(self.place, days)


class Stubborn(Weather):
    caught: ClassVar[set[str]] = {"cancellation"}

    async def asked(self, city: str, days: int) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await super().asked(city, days)


class KeepsItsLock(Weather):
    """One run that is cancelled, and there is never another."""

    caught: ClassVar[set[str]] = {"cancellation"}

    def __init__(self) -> None:
        super().__init__()
        self.is_taken = False

    async def asked(self, city: str, days: int) -> str:
        if self.is_taken:
            raise Unavailable("busy")
        for turn in range(2):
            await asyncio.sleep(0)
            self.is_taken = turn == 0
        return await super().asked(city, days)


class HidesTheOutage(Weather):
    caught: ClassVar[set[str]] = {"services away"}

    async def asked(self, city: str, days: int) -> str:
        return "cloudy" if self.is_away else await super().asked(city, days)


class ForEverybody(Weather):
    caught: ClassVar[set[str]] = {"suited calls"}

    def suits(self, call: Call) -> bool:
        return True


class QuotesItsKey(Weather):
    caught: ClassVar[set[str]] = {"secrets"}

    async def asked(self, city: str, days: int) -> str:
        if city not in KNOWN:
            raise InvalidRequest(f"GET /?key={SECRET}: no such city")
        return await super().asked(city, days)


class LogsItsCaller(Weather):
    caught: ClassVar[set[str]] = {"secrets"}

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        log.debug("asked by %s", dict(call.headers))
        return await super().run(call, arguments)


class Blocks(Weather):
    caught: ClassVar[set[str]] = {"latency"}

    async def asked(self, city: str, days: int) -> str:
        if self.runs <= 3:
            time.sleep(0.15)  # noqa: ASYNC251  # the fault
        return await super().asked(city, days)


def suite(tool: type[Weather]) -> ToolConformance:
    class Settings(Section): ...

    class Plugin:
        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tools(self) -> Iterable[Tool]:
            return [tool()]

    Plugin.Settings = Settings  # type: ignore[attr-defined]

    class Suite(ToolConformance):
        plugin = "specimen"
        plugin_class = Plugin
        good = (("weather", {"city": "Paris", "days": 3}), ("weather", {"city": "Oslo"}))
        bad = (("weather", {"city": "Nowhere"}),)
        secrets = (SECRET,)

        def stranger(self) -> Call:
            call = self.call()
            call.model = "other"
            return call

        def broken(self, gateway: Gateway) -> AbstractAsyncContextManager[None]:
            @contextlib.asynccontextmanager
            async def away() -> AsyncIterator[None]:
                self.tool(gateway, "weather").is_away = True  # type: ignore[attr-defined]
                yield

            return away()

    return Suite()


async def test_what_is_sound_passes_every_check(failing: Any) -> None:
    assert await failing(suite(Weather)) == {}


@pytest.mark.parametrize("fault", Weather.__subclasses__())
async def test_a_fault_is_caught_by_the_checks_meant_for_it(fault: type[Weather], failing: Any) -> None:
    found = await failing(suite(fault))
    assert set(found) == fault.caught, found


def test_there_is_a_fault_for_every_check() -> None:
    caught = set().union(*(fault.caught for fault in Weather.__subclasses__() if fault is not ComesAndGoes))
    assert caught == EVERYTHING


async def test_a_suite_that_tells_no_call_of_a_tool_is_told_so(failing: Any) -> None:
    silent = suite(Weather)
    silent.good = silent.bad = ()
    found = await failing(silent)
    assert found == {"what models are told": "Suite.good: tell a call of each tool; there is none of ['weather']"}


_implements: type[Tool] = Weather
