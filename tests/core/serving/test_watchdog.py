"""The watchdog: whose code something is, what it tells of a loop that stands still, and when it says nothing."""

import asyncio
import logging
import time
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from gatehook.loader.origins import Owners
from gatehook.serving.watchdog import Watchdog

NOBODY = Owners({})


def owners(**modules: str) -> Owners:
    return Owners({name: EntryPoint(name, f"{module}:Plugin", "gatehook") for name, module in modules.items()})


@pytest.mark.parametrize(
    ("module", "whose"),
    [
        ("gatehook_plugins.cache", "plugin 'cache'"),
        ("gatehook_plugins.cache.memory", "plugin 'cache'"),
        ("gatehook_plugins.cache_else", ""),
        ("gatehook_plugins", ""),
        ("gatehook.calls.pipeline", ""),
        ("acme.plugin", "plugin 'acme'"),
        ("acme.plugin.deep.deeper", "plugin 'acme'"),
        ("", ""),
    ],
)
def test_a_module_belongs_to_the_plugin_whose_package_it_is_in(module: str, whose: str) -> None:
    assert owners(cache="gatehook_plugins.cache", acme="acme.plugin").of(module) == whose


async def moved(caplog: pytest.LogCaptureFixture, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in caplog.text:  # noqa: ASYNC110  # another thread tells it
            await asyncio.sleep(0.01)


async def test_code_that_is_no_plugin_s_is_told_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with Watchdog(NOBODY, 0.05).watching():
        end = time.monotonic() + 20
        while "stands still" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)  # noqa: ASYNC251  # the very thing
        await moved(caplog, "moves again")
    told = [record.getMessage() for record in caplog.records]
    assert "no plugin's code, but " in told[0]
    assert "test_watchdog.py:" in told[0]
    assert told[1].startswith("the event loop moves again, after ")


async def test_a_loop_that_waits_for_something_does_not_stand_still(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gatehook")
    with Watchdog(NOBODY, 0.2, 0.4).watching():
        await asyncio.sleep(0.6)
    assert "stands still" not in caplog.text


async def test_nothing_is_left_running_afterwards() -> None:
    import threading

    for warning in (0.0, 0.01, 100.0):
        with Watchdog(NOBODY, warning).watching():
            names = [thread.name for thread in threading.enumerate()]
            assert ("watchdog" in names) == bool(warning)
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


async def test_what_waits_outside_of_calls_is_nobody_s_business(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook.serving.watchdog._LOOK", 0.01)
    looks: list[Any] = []
    look = Watchdog._look_around

    def counted(self: Watchdog, loop: asyncio.AbstractEventLoop) -> None:
        look(self, loop)
        looks.append(loop)

    monkeypatch.setattr(Watchdog, "_look_around", counted)
    mine = owners(mine=__name__)

    async def background() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(background())
    with Watchdog(mine, 0.0).watching():
        async with asyncio.timeout(20):
            while len(looks) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    task.cancel()
    assert caplog.records == []
