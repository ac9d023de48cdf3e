"""The service `LOCAL_MODELS`: what the worker knows of the files, joined with what the host says of loaded models."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from gatehook import GatewayError, LocalLimits, LocalModel, LocalModels, ModelNotFound, Target
from gatehook_plugins.vendor_gguf.deployments import VENDOR
from gatehook_plugins.vendor_gguf.link import Link
from gatehook_plugins.vendor_gguf.messages import State, Told
from gatehook_plugins.vendor_gguf.shelf import Shelf

__all__ = ["LocalGGUF"]

_SECONDS: Final = 1.0
"""For which a list of the files is good: anybody may ask for it (health), and it is read from the disk."""


class LocalGGUF:
    """Implements `gatehook.LocalModels`."""

    engine = VENDOR

    def __init__(self, shelf: Shelf, link: Link) -> None:
        self._shelf = shelf
        self._link = link
        self._targets: Mapping[str, Target] = {}
        self._listed: Sequence[LocalModel] = ()
        """What the files of these are, as last read."""
        self._read_at = -math.inf
        self._reading = asyncio.Lock()

    async def models(self) -> Sequence[LocalModel]:
        """All local models, by name."""
        listed = await self._files()
        told = await self._link.report()
        return [self._now(model, told) for model in listed]

    async def load(self, name: str, quantization: str | None = None, prefer_gpu: bool | None = None) -> LocalModel:
        """Load one, or wait until it is loaded."""
        target = await self._target(name)
        spec = await asyncio.to_thread(self._shelf.deployments.spec, target, quantization, prefer_gpu)
        await self._link.load(spec, exact=quantization is not None or prefer_gpu is not None)
        return await self._one(target)

    async def unload(self, name: str) -> LocalModel:
        """Unload one when its requests are answered."""
        target = await self._target(name)
        await self._link.unload(target.name)
        return await self._one(target)

    async def limits(self) -> LocalLimits:
        """The limits for all models together, and the memory in use."""
        told = await self._link.report()
        rules = self._link.rules
        return LocalLimits(rules.max_concurrent_models, rules.memory_limit, told.memory)

    async def _target(self, name: str) -> Target:
        try:
            return self._shelf.target(name)
        except ModelNotFound:
            await self._shelf.look()  # its file may be new
            return self._shelf.target(name)

    async def _files(self) -> Sequence[LocalModel]:
        """What the files of all local models are; however many ask, the disk is asked once a second."""
        async with self._reading:
            if time.monotonic() - self._read_at >= _SECONDS:
                await self._shelf.look()
            if (targets := self._shelf.targets()) != self._targets or time.monotonic() - self._read_at >= _SECONDS:
                self._listed = await asyncio.to_thread(lambda: [self._file(targets[name]) for name in sorted(targets)])
                self._targets, self._read_at = targets, time.monotonic()
            return self._listed

    async def _one(self, target: Target) -> LocalModel:
        return self._now(await asyncio.to_thread(self._file, target), await self._link.report())

    def _file(self, target: Target) -> LocalModel:
        """What the files of a model are. Reads them: call it in a thread."""
        deployments = self._shelf.deployments
        try:
            family, usual = deployments.family(target), deployments.variant(target)
        except GatewayError as error:
            return LocalModel(target.name, VENDOR, VENDOR, 0, "", (), "", 0, status="failed", error=error.message)
        header = usual.header
        return LocalModel(
            name=target.name,
            engine=VENDOR,
            format=VENDOR,
            size=header.size,
            quantization=usual.quantization,
            quantizations=tuple(variant.quantization for variant in family.variants),
            architecture=header.architecture,
            context_length=target.context_window or header.context_length,
        )

    def _now(self, model: LocalModel, told: Told) -> LocalModel:
        """A model with what the host says of it; one whose files cannot be used stays as it is."""
        if model.error:
            return model
        pinned = any(spec.name == model.name for spec in self._link.rules.pinned)
        model = replace(model, pinned=pinned, failures=told.failures.get(model.name, 0))
        state = next((one for one in told.states if one.name == model.name), None)
        return model if state is None else _with_state(model, state)


def _with_state(model: LocalModel, state: State) -> LocalModel:
    return replace(
        model,
        size=state.spec.size,
        quantization=state.spec.quantization,
        context_length=state.context or model.context_length,
        status=state.status,
        progress=state.progress,
        loaded_at=state.loaded_at,
        memory=state.memory if state.status == "loaded" else None,
        active=state.active,
        error=state.error,
    )


_implements: type[LocalModels] = LocalGGUF
