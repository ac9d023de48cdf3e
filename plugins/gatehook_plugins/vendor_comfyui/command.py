"""`gatehook comfyui`: whether the workflows suit the servers that shall run them, as the servers themselves see it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gatehook import GatewayError, Target
from gatehook_plugins.vendor_comfyui.vendor import ComfyVendor, Deployment

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ServerCheck", "node_faults"]


class ServerCheck:
    """The command."""

    def __init__(self, gateway: "Gateway", vendor: ComfyVendor) -> None:
        self._gateway = gateway
        self._vendor = vendor

    def run(self, words: Sequence[str]) -> int:
        """Check all deployments, or those of the models that are named; prints what it finds."""
        targets = [target for target in self._gateway.settings.targets if target.vendor == self._vendor.name]
        chosen = [target for target in targets if not words or target.name in words or target.key in words]
        if not chosen:
            sys.stdout.write("no such model of vendor 'comfyui'\n")
            return 1
        return asyncio.run(self._check(chosen))

    async def _check(self, targets: Sequence[Target]) -> int:
        is_sound = True
        async with self._gateway.egress.lifespan(), self._vendor.lifespan():
            for target in targets:
                faults = list(self._vendor.check(target)) or [fault async for fault in self._faults(target)]
                is_sound = is_sound and not faults
                for line in faults or ["fine"]:
                    sys.stdout.write(f"{target.key} at {target.base_url or 'no address'}: {line}\n")
        return 0 if is_sound else 1

    async def _faults(self, target: Target) -> AsyncIterator[str]:
        try:
            known = await self._vendor.deployment(target)
            for name in known.workflow.nodes:
                kind = await known.server.node_kind(known.workflow.nodes[name]["class_type"])
                for fault in node_faults(known, name, kind):
                    yield f"node {name} ({known.workflow.called(name)}): {fault}"
        except GatewayError as error:
            yield error.message


def node_faults(known: Deployment, name: str, kind: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with a node at a server.

    Args:
        known: the deployment.
        name: of the node.
        kind: what the server tells of its class; None if it has none.
    """
    node = known.workflow.nodes[name]
    if kind is None:
        yield f"the server has no {node['class_type']}; a custom node is not installed"
        return
    told = kind.get("input") or {}
    fields: dict[str, Any] = {**(told.get("required") or {}), **(told.get("optional") or {})}
    for field in told.get("required") or {}:
        if field not in node["inputs"]:
            yield f"{field}: required, but missing"
    for field, value in node["inputs"].items():
        choices = _choices(fields.get(field))
        if choices is not None and not isinstance(value, list) and value not in choices:
            yield f"{field}: the server has no {value!r}"
        yield from _bound_faults(known, name, field, fields.get(field))


def _choices(field: Any) -> Sequence[Any] | None:
    """What may be chosen from; None if it is no choice. Newer servers write it in another way."""
    if not isinstance(field, list) or not field:
        return None
    if isinstance(field[0], list):
        return field[0]
    options = field[1].get("options") if field[0] == "COMBO" and len(field) > 1 else None
    return options if isinstance(options, list) else None


def _bound_faults(known: Deployment, name: str, place: str, field: Any) -> Iterator[str]:
    """Where clients may give more than the server takes."""
    one = known.workflow.inputs.get(known.workflow.input_at(name, place) or "")
    bounds = field[1] if isinstance(field, list) and len(field) > 1 and isinstance(field[1], dict) else {}
    if one is None:
        return
    least, most = bounds.get("min"), bounds.get("max")
    if one.least is not None and least is not None and one.least < least:
        yield f"{place}: the server takes no less than {least}, and clients may give {one.least} as {one.name!r}"
    if one.most is not None and most is not None and one.most > most:
        yield f"{place}: the server takes no more than {most}, and clients may give {one.most} as {one.name!r}"
