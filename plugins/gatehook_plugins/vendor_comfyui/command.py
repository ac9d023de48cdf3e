"""`gatehook comfyui`: asks the servers whether they can run the workflows."""

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gatehook import GatewayError, Target
from gatehook_plugins.vendor_comfyui.vendor import ComfyVendor

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ServerCheck"]


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
                faults = list(self._vendor.check(target)) or await self._faults(target)
                is_sound = is_sound and not faults
                for line in faults or ["fine"]:
                    sys.stdout.write(f"{target.key} at {target.base_url or 'no address'}: {line}\n")
        return 0 if is_sound else 1

    async def _faults(self, target: Target) -> Sequence[str]:
        try:
            return await self._vendor.inspect(target)
        except GatewayError as error:
            return [error.message]
