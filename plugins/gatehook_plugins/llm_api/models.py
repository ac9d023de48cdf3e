"""GET /models, /models/{id}/status and /health. Nothing here waits or calls a vendor."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from gatehook import PRINCIPAL, Catalog, Pricing, Principal, Target, dollars, encode
from gatehook_plugins.llm_api.errors import UnknownModel
from gatehook_plugins.llm_api.monitor import Health, Monitor

__all__ = ["Lifecycle", "Models"]

_STATUS: Final = {"healthy": "available", "degraded": "degraded", "unavailable": "unavailable"}
"""A model's status, by its health."""
_KINDS: Final = ("embedding", "image", "audio", "rerank")
"""Types of models that are no text models, as parts of their capabilities' names ("embeddings", "text-to-image")."""


class Lifecycle(Protocol):
    """What these handlers have to know of the gateway."""

    @property
    def draining(self) -> bool:
        """Whether it is shutting down."""
        ...

    def can_call(self, target: Target) -> bool:
        """Whether a deployment can be called."""
        ...


class Models:
    """The handlers."""

    def __init__(self, gateway: Lifecycle, catalog: Catalog, monitor: Monitor, *, has_ledger: bool) -> None:
        self._gateway = gateway
        self._catalog = catalog
        self._monitor = monitor
        self._has_ledger = has_ledger

    async def list(self, request: web.Request) -> web.Response:
        """All models that the caller may use, in the order of the settings; also those that cannot be called now.

        Aliases are last, and wildcards are not listed: nobody can ask for them as they stand.
        """
        principal = request[PRINCIPAL]
        models = [
            self._model(name, group)
            for name, group in self._catalog.groups().items()
            if self._catalog.group(name) and self._may_use(principal, name)
        ]
        return _json({"models": models})

    async def status(self, request: web.Request) -> web.Response:
        """How one model did in the last minutes.

        Raises:
            UnknownModel: there is none of this name for this caller.
        """
        name = request.match_info["id"]
        group = self._catalog.group(name)
        if not group or not self._may_use(request[PRINCIPAL], name):
            raise UnknownModel(name)
        vitals = self._monitor.vitals(name, self._callable(group))
        return _json(
            {
                "model_id": name,
                "status": _STATUS[vitals.health],
                "health": vitals.health,
                "response_time_ms": None if vitals.response_time is None else round(vitals.response_time * 1000),
                "last_check": None if vitals.age is None else _timestamp(vitals.age),
                "error_rate": vitals.error_rate,
            }
        )

    async def health(self, request: web.Request) -> web.Response:
        """How the gateway does as a whole, for anybody: numbers, no names.

        A model that cannot be called for want of a key is not available, but does not make the whole degraded.
        """
        catalog = self._catalog
        groups = {
            name: self._callable(group) for name, group in catalog.groups().items() if catalog.canonical(name) == name
        }
        health = {name: self._monitor.vitals(name, group).health for name, group in groups.items()}
        counts = Counter(health.values())
        available = counts["healthy"] + counts["degraded"]
        draining = self._gateway.draining
        ailing = any(health[name] != "healthy" and group for name, group in groups.items())
        overall: Health = "degraded" if ailing else "healthy"
        return _json(
            {
                "status": "unavailable" if draining or not available else overall,
                "timestamp": _timestamp(),
                "services": {
                    "llm_service": "draining" if draining else "healthy",
                    "model_manager": "healthy" if available else "unavailable",
                    "cost_tracker": "healthy" if self._has_ledger else "disabled",
                },
                "models": {
                    "available": available,
                    "healthy": counts["healthy"],
                    "degraded": counts["degraded"],
                    "unavailable": counts["unavailable"],
                },
            }
        )

    def _may_use(self, principal: Principal, name: str) -> bool:
        return principal.may_use(name, self._catalog.canonical(name))

    def _callable(self, group: Sequence[Target]) -> Sequence[Target]:
        return [one for one in group if self._gateway.can_call(one)]

    def _model(self, name: str, group: Sequence[Target]) -> dict[str, Any]:
        """One model, as the deployment that is tried first has it."""
        callable_ = self._callable(group)
        first = min(callable_, key=_priority, default=group[0])
        return {
            "id": name,
            "name": name,
            "provider": first.vendor,
            "type": _type(first.capabilities),
            "status": _STATUS[self._monitor.vitals(name, callable_).health],
            "capabilities": first.capabilities,
            "limits": {"max_tokens": first.max_tokens, "context_window": first.context_window},
            "pricing": _prices(first.pricing),
        }


def _priority(target: Target) -> int:
    return target.priority


def _type(capabilities: Sequence[str]) -> str | None:
    """What the capabilities tell of it; None if there are none."""
    if not capabilities:
        return None
    named = (kind for kind in _KINDS if all(kind in one.lower() for one in capabilities))
    return next(named, "text")


def _prices(pricing: Pricing | None) -> dict[str, float | None]:
    """Dollars per 1,000 tokens."""
    return {
        "input_per_1k_tokens": None if pricing is None else dollars(pricing.input),
        "output_per_1k_tokens": None if pricing is None else dollars(pricing.output),
    }


def _timestamp(age: float = 0.0) -> str:
    """The time `age` seconds ago."""
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: Any) -> web.Response:
    return web.Response(body=encode(value), headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
