"""A gateway that makes pictures, with a store of files or without."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from gatehook.testing import serving

SETTINGS = """
[plugins.images_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.vendor_mock]
"""


@dataclass
class House:
    """A serving gateway, and a client of it."""

    url: str
    gateway: Any
    http: aiohttp.ClientSession

    async def ask(self, **body: Any) -> tuple[int, Any]:
        """Ask for pictures; the status and the answer."""
        body = {"model": "m", "prompt": "a cat", **body}
        async with self.http.post(f"{self.url}/v1/images/generations", json=body) as answer:
            return answer.status, await answer.json()

    async def fetched(self, url: str) -> bytes:
        """What is behind a URL of the gateway's own."""
        async with self.http.get(self.url + url) as answer:
            assert answer.status == 200
            return await answer.read()


class Open(Protocol):
    """Opens a house, with these tables beside those that all have."""

    def __call__(
        self, tables: str, *, files: bool = True, plugins: Any = None
    ) -> AbstractAsyncContextManager[House]: ...


@pytest.fixture
def house(tmp_path: Path) -> Open:
    """Opens a house."""

    @contextlib.asynccontextmanager
    async def opened(tables: str, *, files: bool = True, plugins: Any = None) -> AsyncIterator[House]:
        store = f'[plugins.files]\ndirectory = "{tmp_path}"\n' if files else ""
        async with serving(SETTINGS + store + tables, plugins=plugins) as served, aiohttp.ClientSession() as http:
            yield House(served.url, served.gateway, http)

    return opened
