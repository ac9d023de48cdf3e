"""What `gatehook check` tells besides faults of the settings: what nobody can call, and what servers themselves say."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gatehook.config.reading import nearest
from gatehook.errors import GatewayError, StartupError
from gatehook.model import Target
from gatehook.protocols import Endpoint, Inspector
from gatehook.services.database import DATABASE

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["idle", "inspected", "misspelt"]

_DECIDING: Final = ("vision", "tools")
"""The capabilities that decide which calls a deployment gets; any other is only shown."""
_PATIENCE: Final = 5.0
"""Seconds that a server has to answer: somebody waits for the check."""


async def inspected(gateway: "Gateway") -> tuple[Sequence[str], Sequence[str]]:
    """Faults of deployments that their servers tell; and notes on servers that could not be asked: that is no fault.

    Nor is a database that cannot be used from here and now.
    """
    faults, notes = list[str](), await _of_database(gateway)

    async def ask(target: Target, vendor: Inspector) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                faults.extend(f"[[models]] {target.key}: {fault}" for fault in await vendor.inspect(target))
        except (GatewayError, TimeoutError) as error:
            why = error.message if isinstance(error, GatewayError) else f"no answer within {_PATIENCE:g} s"
            notes.append(f"{target.key}: its server was not asked: {why}")

    asking = list[tuple[Target, Inspector]]()
    for target in gateway.settings.targets:
        vendor = gateway.vendors.get(target.vendor)
        if isinstance(vendor, Inspector):
            asking.append((target, vendor))
    if asking:
        async with gateway.egress.lifespan():
            await asyncio.gather(*(ask(*one) for one in asking))
    return sorted(faults), sorted(notes)


async def _of_database(gateway: "Gateway") -> list[str]:
    database = gateway.services.get(DATABASE)
    if database is None:
        return []
    try:
        async with asyncio.timeout(_PATIENCE):
            await database.inspect()
    except StartupError as error:
        return error.faults
    except TimeoutError:
        return [f"[database] url: no answer within {_PATIENCE:g} s"]
    return []


def idle(gateway: "Gateway") -> Sequence[str]:
    """Notes on deployments that nobody can call as things are, which may be intended."""
    targets = gateway.settings.targets
    notes = [f"{target.key}: not served: {target.unavailable}" for target in targets if target.unavailable]
    if targets and not any(isinstance(route, Endpoint) for _, route in gateway.routes):
        notes.append("no API that takes calls of models is switched on, such as [plugins.openai_api]")
    if targets and not gateway.pipeline.concerns.routers:
        notes.append("no router that finds models by their names is switched on, such as [plugins.route_models]")
    return notes


def misspelt(gateway: "Gateway") -> Sequence[str]:
    """Notes on capabilities that decide nothing, but are spelt nearly as one that does."""
    return [
        f"{target.key}: capabilities: {word!r} decides nothing{hint}"
        for target in gateway.settings.targets
        for word in target.capabilities
        if word not in _DECIDING and (hint := nearest(word, _DECIDING))
    ]
