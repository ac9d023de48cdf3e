"""What the health paths answer. Nothing here calls a vendor: a probe must not be slow, nor cost money."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import Catalog, Database, LocalModels, Target, Unavailable, encode

__all__ = ["Lifecycle", "Report"]

_SERVICE: Final = "gatehook"
_HEADERS: Final = {"Cache-Control": "no-store"}  # a proxy that remembered an answer would hide a change


class Lifecycle(Protocol):
    """What these handlers have to know of the gateway."""

    @property
    def serving(self) -> bool:
        """Whether start-up is over."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it is shutting down: running requests go on, new ones should go elsewhere."""
        ...


class Report:
    """The handlers."""

    def __init__(
        self,
        gateway: Lifecycle,
        catalog: Catalog,
        local: LocalModels | None,
        database: Database | None,
        *,
        needs_database: bool,
    ) -> None:
        """Nothing is asked yet.

        Args:
            gateway: whose health it is.
            catalog: its models.
            local: the models of this machine, if a plugin runs any.
            database: that plugins keep things in, if there is one.
            needs_database: without it, new requests should go elsewhere.
        """
        self._database = database
        self._needs_database = needs_database
        self._local = local
        self._gateway = gateway
        self._catalog = catalog

    async def full(self, request: web.Request) -> web.Response:
        """Everything that is known. A model that cannot be called is an issue; the gateway itself is still healthy.

        Without its database it is degraded: what that is needed for fails.
        """
        engine, troubles = await self._engine()
        return _answer(
            {
                "status": "healthy" if self._has_database() else "degraded",
                "service": _SERVICE,
                "timestamp": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
                "manager_initialized": self._gateway.serving,
                "engines": {} if self._local is None else {self._local.engine: engine},
                "models": len(self._models()),
                "issues": [*self._issues(), *troubles],
            }
        )

    async def simple(self, request: web.Request) -> web.Response:
        """That the gateway serves, and nothing else."""
        return _answer({"status": "ok", "service": _SERVICE})

    async def live(self, request: web.Request) -> web.Response:
        """200 whenever the event loop turns; anything else is no answer at all, and a reason to restart."""
        return _answer({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """Whether new requests should come here."""
        if self._gateway.draining:
            return _answer({"status": "draining"}, 503)
        if not self._gateway.serving:
            return _answer({"status": "starting"}, 503)
        if self._needs_database and not self._has_database():
            return _answer({"status": "database_unavailable"}, 503)
        return _answer({"status": "ok"})

    def _has_database(self) -> bool:
        """As its last use told: no probe reads or writes anything."""
        return self._database is None or self._database.works

    async def _engine(self) -> tuple[dict[str, Any], Sequence[str]]:
        """How the engine of this machine does, and what there is to say about its models."""
        if self._local is None:
            return {}, ()
        try:
            models = await self._local.models()
        except Unavailable:
            return {"status": "unavailable", "loaded_models": 0}, [
                "The process that runs local models does not answer."
            ]
        loaded = sum(model.loaded for model in models)
        failed = [
            f"Model {model.name!r} could not be loaded; the gateway's log tells why." for model in models if model.error
        ]
        return {"status": "ready", "loaded_models": loaded}, failed

    def _models(self) -> Mapping[str, Sequence[Target]]:
        """The groups of the catalog, each once, whatever its aliases."""
        catalog = self._catalog
        return {name: group for name, group in catalog.groups().items() if catalog.canonical(name) == name}

    def _issues(self) -> Iterable[str]:
        if self._gateway.draining:
            yield "The gateway is shutting down; running requests are finished, new ones should go elsewhere."
        if not self._has_database():
            yield "The database cannot be read or written to; the gateway's log tells why."
        for name, group in self._models().items():
            if away := sum(1 for target in group if target.unavailable and not target.switched_off):
                # Without the reason: it names files and variables, and this path needs no key.
                yield (
                    f"Model {name!r}: {away} of {len(group)} deployments cannot be called, for want of an API key or "
                    "of another setting; the gateway's log tells which."
                )
            if off := sum(target.switched_off for target in group):
                yield f"Model {name!r}: an administrator has switched off {off} of {len(group)} deployments."


def _answer(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json", headers=_HEADERS)
