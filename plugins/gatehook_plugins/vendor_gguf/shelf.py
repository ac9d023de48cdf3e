"""What a worker knows of the models on this machine: kept up to date while it serves, and shown in the catalog."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from gatehook import Call, Catalog, GatewayError, ModelNotFound, Target, meanwhile
from gatehook_plugins.vendor_gguf.deployments import VENDOR, Deployments
from gatehook_plugins.vendor_gguf.header import Header
from gatehook_plugins.vendor_gguf.library import Family
from gatehook_plugins.vendor_gguf.messages import Spec

__all__ = ["Shelf"]

log = logging.getLogger("gatehook.vendor_gguf")

_SOURCE: Final = "vendor_gguf"
_SECONDS: Final = 5.0
"""Seconds between two looks at the files; what is known of a file is at most so old."""
_SOON: Final = 1.0
"""The least seconds between two looks for names that no router knows."""


class Shelf:
    """All local models. It is also a router: a name that no other router knows may be that of a new file."""

    def __init__(self, deployments: Deployments, catalog: Catalog) -> None:
        """Nothing is read yet."""
        self.deployments = deployments
        self._catalog = catalog
        self._found: Sequence[Target] = ()
        self._headers: Mapping[str, Header] = {}
        """The headers of the files of the settings' deployments, by the deployments' keys."""
        self._specs: dict[str, tuple[Target, Spec, float]] = {}
        self._looked = -math.inf
        self._looking = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Look at the files, now and from time to time."""
        await self.look()
        async with meanwhile(self._keep_looking()):
            yield

    async def route(self, call: Call) -> Sequence[Target] | None:
        """The deployments of a model whose file is new; None if there is none."""
        await self.look(unless_within=_SOON)
        return self._catalog.group(call.model) or None

    async def look(self, *, unless_within: float = 0.0) -> None:
        """Look at the files, and show in the catalog what there is; but not if that was done so many seconds ago."""
        async with self._looking:
            if time.monotonic() - self._looked < unless_within:
                return
            own = self._others()
            found, headers = await asyncio.to_thread(self._read, own)
            self._looked = time.monotonic()
            if headers != self._headers:
                self._headers = headers
                self._catalog.amend(_SOURCE, self._described)
            if found != self._found:
                self._found = found
                self._catalog.feed(_SOURCE, found)

    def targets(self) -> Mapping[str, Target]:
        """One deployment of each local model, by public name."""
        groups = self._catalog.groups().values()
        return {one.name: one for group in groups for one in reversed(group) if one.vendor == VENDOR}

    def target(self, name: str) -> Target:
        """The local deployment behind a public name.

        Raises:
            ModelNotFound: there is none.
        """
        found = next((one for one in self._catalog.group(name) if one.vendor == VENDOR), None)
        if found is None:
            raise ModelNotFound(f"there is no local model {name!r}", param="model")
        return found

    async def family(self, target: Target) -> Family:
        """The files of a deployment.

        Raises:
            GatewayError: they cannot be used.
        """
        return await asyncio.to_thread(self.deployments.family, target)

    async def spec(self, target: Target) -> Spec:
        """What is to be loaded for a deployment; its file is looked at every few seconds only.

        Raises:
            GatewayError: its file cannot be used.
        """
        known = self._specs.get(target.key)
        now = time.monotonic()
        if known is not None and known[0] is target and now < known[2]:
            return known[1]
        spec = await asyncio.to_thread(self.deployments.spec, target)
        self._specs[target.key] = (target, spec, now + _SECONDS)
        return spec

    def _others(self) -> Sequence[Target]:
        """All deployments that are not of this shelf."""
        ours = {one.key for one in self._found}
        return [one for group in self._catalog.groups().values() for one in group if one.key not in ours]

    def _read(self, others: Sequence[Target]) -> tuple[Sequence[Target], Mapping[str, Header]]:
        headers: dict[str, Header] = {}
        for target in others:
            if target.vendor == VENDOR:
                with contextlib.suppress(GatewayError):  # told when it is asked for
                    headers[target.key] = self.deployments.variant(target).header
        return self.deployments.scan(others), headers

    def _described(self, target: Target) -> Target:
        header = self._headers.get(target.key)
        return target if header is None or target.vendor != VENDOR else self.deployments.described(target, header)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("the files of local models could not be looked at")
