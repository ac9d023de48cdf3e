"""GET /health and /models, and what loads and unloads models. Remote models are always ready."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Protocol

from aiohttp import web
from msgspec import Meta, Struct

from gatehook import (
    ANONYMOUS,
    PRINCIPAL,
    Call,
    Catalog,
    InvalidRequest,
    LocalModel,
    LocalModels,
    ModelNotFound,
    Observer,
    Outcome,
    PermissionDenied,
    Principal,
    Target,
    encode,
    read_as,
    read_body,
)
from gatehook_plugins.generate_api.requests import DEFAULT_MODEL
from gatehook_plugins.generate_api.sizes import memory_of_machine, memory_of_process, shown

__all__ = ["Models", "Offers"]

_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}


class Offers(Protocol):
    """What the handlers have to know of the gateway."""

    def can_call(self, target: Target) -> bool:
        """Whether a deployment can be called."""
        ...


class Load(Struct, forbid_unknown_fields=True):
    """The body of /models/{name}/load; it may be missing."""

    quantization: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    prefer_gpu: bool | None = None


class Models(Observer):
    """The handlers; and how many calls are running."""

    def __init__(self, gateway: Offers, catalog: Catalog, local: LocalModels | None, default_model: str) -> None:
        """`local` are the models of this machine, if a plugin runs any; `default_model` "" has one chosen."""
        self._gateway = gateway
        self._catalog = catalog
        self._local = local
        self._default_model = default_model
        self._running = 0

    def started(self, call: Call) -> None:
        """One more runs."""
        self._running += 1

    def finished(self, call: Call, outcome: Outcome) -> None:
        """One less runs."""
        self._running -= 1

    def default(self, principal: Principal) -> str:
        """What "default" stands for: the settings' choice, else a model of this name, else the first; "" is none.

        Of the models, those count that this caller may use and that can be called.
        """
        if self._default_model:
            return self._default_model
        group = self._catalog.groups().get(DEFAULT_MODEL)
        if group is not None and self._can_use(principal, DEFAULT_MODEL, group):
            return DEFAULT_MODEL
        return next(self._callable(principal), "")

    def _callable(self, principal: Principal) -> Iterator[str]:
        """The names of the models that this caller may use and that can be called."""
        for name, group in self._catalog.groups().items():
            if self._can_use(principal, name, group):
                yield name

    async def health(self, request: web.Request) -> web.Response:
        """Whether models can be called, and what memory they take; without local ones, what the gateway takes."""
        local = await self._local_models()
        if self._local is not None and local is not None:
            limits = await self._local.limits()
            used, of = limits.memory_used, limits.memory_limit
            loaded = any(model.loaded for model in local)
        else:
            used, of = memory_of_process() or 0, memory_of_machine() or 0
            loaded = bool(self.default(ANONYMOUS))
        return _answer(
            {
                "status": "healthy",
                "model_loaded": loaded,
                "memory_usage": f"{shown(used)}/{shown(of)}" if of else shown(used),
                "active_connections": self._running,
            }
        )

    async def list(self, request: web.Request) -> web.Response:
        """All models that the caller may use and that can be called; a remote one has no size, and is always loaded."""
        local = {model.name: model for model in await self._local_models() or ()}
        return _answer({"models": [self._listed(name, local) for name in self._callable(request[PRINCIPAL])]})

    def _listed(self, name: str, local: Mapping[str, LocalModel]) -> dict[str, Any]:
        """A model under this name, which may be another one's alias."""
        model = local.get(self._catalog.canonical(name))
        return _remote(name) if model is None else _shown(model) | {"name": name}

    async def load(self, request: web.Request) -> web.Response:
        """Load a model, or wait until it is loaded.

        Raises:
            PermissionDenied: the caller is no administrator.
            ModelNotFound: there is none. InvalidRequest: it does not have what the body asks for.
            Unavailable: there is no room for it, or it cannot be loaded.
        """
        _admit(request)
        asked = await _read(request)
        name = self._named(request)
        if self._local is None or not await self._is_local(name):
            if asked.quantization is not None:
                raise InvalidRequest(
                    f"quantization: {name!r} does not run on this machine, and is not loaded here", param="quantization"
                )
            return _answer(_remote(name))
        return _answer(_shown(await self._local.load(name, asked.quantization, asked.prefer_gpu)))

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a model when the requests that it is answering have ended.

        Raises:
            PermissionDenied: the caller is no administrator.
            ModelNotFound: there is none. InvalidRequest: it does not run on this machine.
        """
        _admit(request)
        name = self._named(request)
        if self._local is None or not await self._is_local(name):
            raise InvalidRequest(f"the model {name!r} does not run on this machine, so it cannot be unloaded")
        return _answer(_shown(await self._local.unload(name)))

    def _named(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name == DEFAULT_MODEL:
            name = self.default(request[PRINCIPAL])
        if not self._is_callable(name, self._catalog.group(name)):
            raise ModelNotFound(f"the model {name!r} does not exist; GET /api/v1/models lists those that do")
        return self._catalog.canonical(name)

    async def _is_local(self, name: str) -> bool:
        return any(model.name == name for model in await self._local_models() or ())

    async def _local_models(self) -> Sequence[LocalModel] | None:
        return None if self._local is None else await self._local.models()

    def _can_use(self, principal: Principal, name: str, group: Sequence[Target]) -> bool:
        return self._is_callable(name, group) and principal.may_use(name, self._catalog.canonical(name))

    def _is_callable(self, name: str, group: Sequence[Target]) -> bool:
        return bool(self._catalog.group(name)) and any(map(self._gateway.can_call, group))


def _shown(model: LocalModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "format": model.format,
        "size": shown(model.size),
        "loaded": model.loaded,
        "memory_usage": None if model.memory is None else shown(model.memory),
        "quantization": model.quantization or None,
        "status": model.status,
        "progress": model.progress,
    }


def _remote(name: str) -> dict[str, Any]:
    return {"name": name, "format": None, "size": None, "loaded": True, "memory_usage": None}


def _admit(request: web.Request) -> None:
    """Let administrators pass, and everybody where nobody is asked who they are: then this machine is theirs."""
    principal = request[PRINCIPAL]
    if principal is not ANONYMOUS and not principal.admin:
        raise PermissionDenied("loading and unloading models needs an admin credential", code="admin_required")


async def _read(request: web.Request) -> Load:
    if not request.can_read_body:
        return Load()
    return read_as(await read_body(request), Load)


def _answer(body: dict[str, Any]) -> web.Response:
    return web.Response(body=encode(body), headers=_HEADERS)
