"""What /v1/system/status answers."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import PRINCIPAL, Catalog, LocalLimits, LocalModel, LocalModels, Target, Unavailable, encode

__all__ = ["Lifecycle", "Status"]

_HEADERS: Final = {"Content-Type": "application/json", "Cache-Control": "no-store"}


class Lifecycle(Protocol):
    """What the handler has to know of the gateway."""

    @property
    def serving(self) -> bool:
        """Whether start-up is over."""
        ...

    def can_call(self, target: Target) -> bool:
        """Whether a deployment can be called."""
        ...


class Status:
    """The handler. An engine is what runs models: the one on this machine, and each vendor."""

    def __init__(self, gateway: Lifecycle, catalog: Catalog, local: LocalModels | None) -> None:
        """`local` are the models of this machine, if a plugin runs any."""
        self._gateway = gateway
        self._catalog = catalog
        self._local = local

    async def get(self, request: web.Request) -> web.Response:
        """Everything that the caller may know of."""
        principal = request[PRINCIPAL]
        local, limits, trouble = await self._looked()
        groups = {
            name: group
            for name, group in self._catalog.groups().items()
            if self._catalog.group(name) and self._catalog.canonical(name) == name and principal.may_use(name)
        }
        models = [_here(local[name]) if name in local else self._remote(name, group) for name, group in groups.items()]
        engines = self._engines(groups, local, limits, trouble)
        return web.Response(
            body=encode(
                {
                    "initialized": self._gateway.serving,
                    "total_engines": len(engines),
                    "registered_models": len(models),
                    "loaded_models": sum(model["status"] == "loaded" for model in models),
                    "max_concurrent_models": None if limits is None else limits.max_concurrent_models,
                    "models": models,
                    "engines": engines,
                }
            ),
            headers=_HEADERS,
        )

    async def _looked(self) -> tuple[Mapping[str, LocalModel], LocalLimits | None, str]:
        """The local models by name, what they may take, and why nothing is known of them."""
        if self._local is None:
            return {}, None, ""
        try:
            return {model.name: model for model in await self._local.models()}, await self._local.limits(), ""
        except Unavailable as error:
            return {}, None, error.message

    def _engines(
        self,
        groups: Mapping[str, Sequence[Target]],
        local: Mapping[str, LocalModel],
        limits: LocalLimits | None,
        trouble: str,
    ) -> dict[str, Any]:
        vendors = dict.fromkeys(target.vendor for group in groups.values() for target in group)
        engines: dict[str, Any] = {
            vendor: {"status": "ready" if self._is_ready(groups, vendor) else "unavailable", "memory_usage": None}
            for vendor in vendors
        }
        if self._local is not None:
            used = None if limits is None else limits.memory_used
            status = "unavailable" if trouble else "ready"
            engines[self._local.engine] = {"status": status, "memory_usage": used}
        return engines

    def _is_ready(self, groups: Mapping[str, Sequence[Target]], vendor: str) -> bool:
        return any(self._gateway.can_call(one) for group in groups.values() for one in group if one.vendor == vendor)

    def _remote(self, name: str, group: Sequence[Target]) -> dict[str, Any]:
        """A model that is not run on this machine: always loaded, as far as anybody knows."""
        first = next(filter(self._gateway.can_call, group), group[0])
        return {
            "name": name,
            "engine_type": first.vendor,
            "status": "loaded" if self._gateway.can_call(first) else "unavailable",
            "loaded_at": None,
            "memory_usage": None,
            "context_length": first.context_window,
        }


def _here(model: LocalModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "engine_type": model.engine,
        "status": model.status,
        "loaded_at": None if model.loaded_at is None else _timestamp(model.loaded_at),
        "memory_usage": model.memory,
        "context_length": model.context_length,
    }


def _timestamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
