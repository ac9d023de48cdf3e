"""What all of these tests need."""

import contextlib
import gc
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.serving.server import running
from gatehook.testing import Served

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "settings.toml").read_text("utf-8")
OpenShipped = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """No garbage collection: one that ends a greenlet in the middle of `ast.parse` breaks it (CPython 3.11)."""
    gc.disable()
    yield
    gc.enable()


def surroundings(**more: str) -> dict[str, str]:
    """This process's environment without what would lead a client or a gateway elsewhere."""
    leading = ("gatehook_", "listen_mode", "uds_path", "openai_", "anthropic_", "gemini_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().startswith(leading) and not name.lower().endswith("_proxy")
    }
    return kept | more


@pytest.fixture(name="surroundings")
def surroundings_fixture() -> Callable[..., dict[str, str]]:
    """Gives the environment without what would lead a client or a gateway elsewhere, and with more."""
    return surroundings


@pytest.fixture
def shipped(tmp_path: Path) -> OpenShipped:
    """Serves the shipped settings, or a text made of them, with these variables in the environment."""

    @contextlib.asynccontextmanager
    async def serve(text: str = SHIPPED, **environ: str) -> AsyncIterator[Served]:
        file = tmp_path / "settings.toml"
        file.write_text(text, "utf-8")
        gateway = Gateway(load(file, environ={"GATEHOOK_SERVER__PORT": "0", **environ}))
        gateway.require_safe()
        async with running(gateway) as url:
            yield Served(url, gateway)

    return serve


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def routes(text: str, folder: Path) -> set[tuple[str, str]]:
    """The methods and paths that a gateway of these settings serves; a variable that can only be one word is that."""
    (folder / "settings.toml").write_text(text, "utf-8")
    gateway = Gateway(load(folder / "settings.toml", environ={}))
    paths = {(route.method, re.sub(r"\{\w+:(\w+)\}", r"\1", route.path)) for _, route in gateway._routes}
    return {(method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)) for method, path in paths}


@pytest.fixture(name="routes")
def routes_fixture() -> Callable[[str, Path], set[tuple[str, str]]]:
    """Tells the methods and paths that a gateway with these settings serves."""
    return routes
