"""Every hook. All are sync, run once at start-up and return iterables; their objects are then called directly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pluggy

from gatehook.protocols import (
    AttemptLimiter,
    Authenticator,
    Cache,
    Command,
    Endpoint,
    Limiter,
    Observer,
    Route,
    Router,
    Tool,
    ToolPolicy,
    ToolSource,
    Transform,
    Vendor,
)
from gatehook.services import ServiceKey

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["hookimpl"]

PROJECT = "gatehook"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_services(gateway: Gateway) -> Iterable[tuple[ServiceKey[Any], object]]:  # type: ignore[empty-body]
    """Offer services to other plugins, each under its typed key."""


@hookspec
def register_authenticators(gateway: Gateway) -> Iterable[Authenticator]:  # type: ignore[empty-body]
    """Tell who clients are; asked in order until one answers."""


@hookspec
def register_limiters(gateway: Gateway) -> Iterable[Limiter | AttemptLimiter]:  # type: ignore[empty-body]
    """Admit calls; all must admit, and each permit is settled exactly once."""


@hookspec
def register_routers(gateway: Gateway) -> Iterable[Router]:  # type: ignore[empty-body]
    """Choose the deployments to try; the first router that knows the model decides."""


@hookspec
def register_vendors(gateway: Gateway) -> Iterable[Vendor]:  # type: ignore[empty-body]
    """Speak upstream dialects, each under its own name."""


@hookspec
def register_caches(gateway: Gateway) -> Iterable[Cache]:  # type: ignore[empty-body]
    """Keep answers; the first hit wins."""


@hookspec
def register_tool_policies(gateway: Gateway) -> Iterable[ToolPolicy]:  # type: ignore[empty-body]
    """Decide about tools; all are asked and the strictest verdict wins."""


@hookspec
def register_tools(gateway: Gateway) -> Iterable[Tool | ToolSource]:  # type: ignore[empty-body]
    """Offer models tools that the gateway runs itself; each under its own name."""


@hookspec
def register_transforms(gateway: Gateway) -> Iterable[Transform]:  # type: ignore[empty-body]
    """Change requests before vendors get them, and answers before clients do; in the other order back."""


@hookspec
def register_observers(gateway: Gateway) -> Iterable[Observer]:  # type: ignore[empty-body]
    """Watch calls go by; may neither block nor fail them."""


@hookspec
def register_routes(gateway: Gateway) -> Iterable[Route | Endpoint]:  # type: ignore[empty-body]
    """Serve paths: inference endpoints of a surface, or any other route."""


@hookspec
def register_lifespans(gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:  # type: ignore[empty-body]
    """Run something around serving: entered in dependency order before the first request, left in reverse."""


@hookspec
def register_commands(gateway: Gateway) -> Iterable[Command]:  # type: ignore[empty-body]
    """Add commands to the `gatehook` program; the gateway is built, but does not serve."""
