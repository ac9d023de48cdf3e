"""Gateways on one database, each like a process of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from gatehook import Gateway
from gatehook.services import DATABASE, DIRECTORY, Database, Directory
from gatehook.testing import built

SECRET = "secret-of-the-tests-0123456789"


@dataclass
class Node:
    """One gateway."""

    gateway: Gateway

    @property
    def database(self) -> Database:
        return self.gateway.services[DATABASE]

    @property
    def directory(self) -> Directory:
        return self.gateway.services[DIRECTORY]


def settings(url: str, *, secret: str = SECRET, timeout: float = 5.0, grace: float = 60.0, more: str = "") -> str:
    kept = f'secret = "{secret}"' if secret else ""
    return f'[database]\nurl = "{url}"\ntimeout = {timeout}\n{kept}\n[plugins.database]\ngrace = {grace}\n{more}\n'


def node(url: str, **how: Any) -> Node:
    return Node(built(settings(url, **how)))


@pytest.fixture(name="settings")
def settings_fixture() -> Callable[..., str]:
    """The text of a settings.toml."""
    return settings


@pytest.fixture
def node_at() -> Callable[..., Node]:
    """Builds a gateway on the database at a URL; nothing is open yet."""
    return node


Enter = Callable[..., Awaitable[Node]]


@pytest.fixture
async def serving_at() -> AsyncIterator[Enter]:
    """Opens gateways on the database at a URL, as around serving."""
    async with contextlib.AsyncExitStack() as stack:

        async def enter(url: str, **how: Any) -> Node:
            one = node(url, **how)
            await stack.enter_async_context(one.gateway.lifespan())
            return one

        yield enter


@pytest.fixture
async def one(serving_at: Enter, database_url: str) -> Node:
    """A gateway that serves."""
    return await serving_at(database_url)


@pytest.fixture
async def two(serving_at: Enter, database_url: str) -> tuple[Node, Node]:
    """Two that serve, on one database."""
    return await serving_at(database_url), await serving_at(database_url)


@pytest.fixture
def soon() -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    """Asks until the answer is true, a hundred times a second; gives the last answer.

    Seconds are counted by how often it was asked: those in which a busy machine does something else are none.
    """

    async def ask(question: Callable[[], Awaitable[Any]], seconds: float = 1.0) -> Any:
        for _ in range(round(seconds * 100)):
            if answer := await question():
                break
            await asyncio.sleep(0.01)
        return answer

    return ask


@pytest.fixture
def no_secret_in() -> Callable[[Iterable[str], str], None]:
    """Checks that none of these texts is in another."""

    def check(hidden: Iterable[str], text: str) -> None:
        for one in hidden:
            assert one not in text

    return check
