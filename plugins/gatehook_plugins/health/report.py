"""What the health paths answer. Nothing here waits or calls a vendor: a probe must not be slow, nor cost money."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import Catalog, Target, encode

__all__ = ["Lifecycle", "Report"]

_SERVICE: Final = "gatehook"
_HEADERS: Final = {"Cache-Control": "no-store"}  # a proxy that remembered an answer would hide a change


class Lifecycle(Protocol):
    """What health wants to know of the gateway."""

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

    def __init__(self, gateway: Lifecycle, catalog: Catalog) -> None:
        self._gateway = gateway
        self._catalog = catalog

    async def full(self, request: web.Request) -> web.Response:
        """Everything that is known. A model that cannot be called is an issue; the gateway itself is still healthy."""
        return _answer(
            {
                "status": "healthy",
                "service": _SERVICE,
                "timestamp": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
                "manager_initialized": self._gateway.serving,
                "engines": {},
                "models": len(self._models()),
                "issues": list(self._issues()),
            }
        )

    async def simple(self, request: web.Request) -> web.Response:
        """One word."""
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
        return _answer({"status": "ok"})

    def _models(self) -> Mapping[str, Sequence[Target]]:
        """The groups of the catalog, each once, whatever its aliases."""
        catalog = self._catalog
        return {name: group for name, group in catalog.groups().items() if catalog.canonical(name) == name}

    def _issues(self) -> Iterable[str]:
        if self._gateway.draining:
            yield "The gateway is shutting down; running requests are finished, new ones should go elsewhere."
        for name, group in self._models().items():
            if away := sum(1 for target in group if target.unavailable):
                # Without the reason: it names files and variables, and this path needs no key.
                yield (
                    f"Model {name!r}: {away} of {len(group)} deployments cannot be called, for want of an API key or "
                    "of another setting; the gateway's log tells which."
                )


def _answer(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=status, content_type="application/json", headers=_HEADERS)
