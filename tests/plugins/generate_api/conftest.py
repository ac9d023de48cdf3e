"""A gateway with the generation API over rehearsed models, and one whose local models a stand-in keeps."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from gatehook import LOCAL_MODELS, InvalidRequest, LocalLimits, LocalModel, Section, ServiceKey, Unavailable, hookimpl
from gatehook.testing import serving

GB = 1 << 30


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        return [json.loads(block.removeprefix("data: ")) for block in blocks]

    def error(self, status: int, code: str) -> Any:
        """The error object, after everything that must hold for any."""
        assert self.status == status, self.body
        error = self.json["error"]
        assert set(self.json) == {"error"}
        assert set(error) == {"code", "message", "details"}
        assert error["code"] == code, error
        assert error["message"]
        return error


class Shelf:
    """Stands in for what runs models on this machine."""

    engine = "gguf"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.found = {
            "m": LocalModel("m", "gguf", "gguf", 4_509_715_660, "Q4_0", ("Q8_0", "Q4_0"), "llama", 8192),
        }
        self.away = False

    async def models(self) -> Sequence[LocalModel]:
        if self.away:
            raise Unavailable("the host is away")
        return list(self.found.values())

    async def load(self, name: str, quantization: str | None = None, prefer_gpu: bool | None = None) -> LocalModel:
        self.calls.append((name, quantization, prefer_gpu))
        if quantization == "q9":
            raise InvalidRequest("quantization: there is no 'q9' of 'm', only Q8_0, Q4_0", param="quantization")
        self.found[name] = replace(self.found[name], status="loaded", memory=2 * GB, loaded_at=1_700_000_000.0)
        return self.found[name]

    async def unload(self, name: str) -> LocalModel:
        self.found[name] = replace(self.found[name], status="unloaded", memory=None, loaded_at=None)
        return self.found[name]

    async def limits(self) -> LocalLimits:
        return LocalLimits(3, 8 * GB, sum(model.memory or 0 for model in self.found.values()))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def api(shelf: Shelf) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """`async with api(models, local=True) as ask`, then `await ask("POST", "/generate", {...})`."""

    class Local:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
            return [(LOCAL_MODELS, shelf)]

    @contextlib.asynccontextmanager
    async def make(
        models: str, *, local: bool = False, more: str = "", generate: str = "[plugins.generate_api]\n"
    ) -> AsyncIterator[Any]:
        named = ["system_api", "health", "metrics", "route_models", "vendor_mock", *(["local"] if local else [])]
        text = generate + "".join(f"[plugins.{name}]\n" for name in named) + more + models
        async with serving(text, plugins={"local": Local}) as served, aiohttp.ClientSession() as session:

            async def ask(method: str, path: str, body: Any = None, **headers: str) -> Answer:
                data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
                path = path[1:] if path.startswith("//") else f"/api/v1{path}"
                sent = {"Content-Type": "application/json", **headers} if data is not None else headers
                async with session.request(method, served.url + path, data=data, headers=sent) as response:
                    return Answer(response.status, response.headers, await response.read())

            yield ask

    return make
