"""Gateways put together from plugins of a test's own, end to end."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gatehook import (
    Route,
    Section,
    ServiceKey,
    StartupError,
    hookimpl,
)
from gatehook.app import Gateway
from gatehook.serving.server import running
from gatehook.testing import built

Ask = Callable[..., Any]


class Plain(Section):
    """[plugins.specimen]."""


class Plugin:
    """What every specimen shares."""

    Settings = Plain

    def __init__(self, settings: Plain) -> None: ...


def specimen(requires: tuple[ServiceKey[Any], ...] = (), **hooks: Iterable[Any]) -> type:
    """A plugin class whose hooks return what is given."""

    def implementing(results: Iterable[Any]) -> Callable[..., Any]:
        def implementation(self: Plugin, gateway: Gateway) -> Iterable[Any]:
            return results

        return hookimpl(implementation)

    methods = {hook: implementing(results) for hook, results in hooks.items()}
    return type("Specimen", (Plugin,), {"requires": requires, **methods})


def build(settings: str = "", /, **plugins: type) -> Gateway:
    """A gateway with these plugins on."""
    tables = "".join(f"[plugins.{name}]\n" for name in plugins if f"[plugins.{name}]" not in settings)
    return built(tables + settings, plugins=plugins)


def told(settings: str = "", /, **plugins: type) -> list[str]:
    """The faults of a gateway that cannot be built."""
    with pytest.raises(StartupError) as caught:
        build(settings, **plugins)
    return caught.value.faults


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[Ask]:
    """Serve the gateway, and give a function that sends one request to it."""
    async with running(gateway) as url, ClientSession() as session:

        async def ask(method: str, path: str, **rest: Any) -> Answer:
            async with session.request(method, url + path, allow_redirects=False, **rest) as response:
                return Answer(response.status, response.headers, await response.read())

        yield ask


def route(method: str, path: str, answer: Any = None, **rest: Any) -> Route:
    """A route that answers with text, with what `answer` gives for a request, or raises it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if isinstance(answer, Exception):
            raise answer
        return web.Response(text=answer(request) if callable(answer) else str(answer))

    return Route(method, path, handler, **rest)


@pytest.fixture(name="specimen")
def specimen_fixture() -> Callable[..., type]:
    """Makes a plugin class whose hooks return what is given."""
    return specimen


@pytest.fixture(name="build")
def build_fixture() -> Callable[..., Gateway]:
    """Builds a gateway with these plugins on."""
    return build


@pytest.fixture(name="told")
def told_fixture() -> Callable[..., list[str]]:
    """Tells the faults of a gateway that cannot be built."""
    return told


@pytest.fixture(name="asking")
def asking_fixture() -> Callable[[Gateway], AbstractAsyncContextManager[Ask]]:
    """Serves a gateway, and gives a function that sends one request to it."""
    return asking


@pytest.fixture(name="route")
def route_fixture() -> Callable[..., Route]:
    """Makes a route that answers with text, with what a function gives for a request, or raises it."""
    return route
