"""The service `LOCAL_MODELS`: what a worker knows of the files, joined with how the host says that they are."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from gatehook import GatewayError, LocalLimits, LocalModel, LocalModels, ModelNotFound, Target
from gatehook_plugins.vendor_gguf.deployments import VENDOR
from gatehook_plugins.vendor_gguf.library import Family, Variant
from gatehook_plugins.vendor_gguf.link import Link
from gatehook_plugins.vendor_gguf.messages import State, Told
from gatehook_plugins.vendor_gguf.shelf import Shelf

__all__ = ["LocalGGUF"]


class LocalGGUF:
    """Implements `gatehook.LocalModels`."""

    engine = VENDOR

    def __init__(self, shelf: Shelf, link: Link) -> None:
        self._shelf = shelf
        self._link = link

    async def models(self) -> Sequence[LocalModel]:
        """All local models, by name."""
        await self._shelf.look()
        told, targets = await self._link.report(), self._shelf.targets()
        return [await self._model(targets[name], told) for name in sorted(targets)]

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
        """How much they may take, and take."""
        told = await self._link.report()
        rules = self._link.rules
        return LocalLimits(rules.max_concurrent_models, rules.memory_limit, told.memory)

    async def _target(self, name: str) -> Target:
        try:
            return self._shelf.target(name)
        except ModelNotFound:
            await self._shelf.look()  # its file may be new
            return self._shelf.target(name)

    async def _one(self, target: Target) -> LocalModel:
        return await self._model(target, await self._link.report())

    async def _model(self, target: Target, told: Told) -> LocalModel:
        try:
            family, usual = await asyncio.to_thread(self._looked_up, target)
        except GatewayError as error:
            return LocalModel(target.name, VENDOR, VENDOR, 0, "", (), "", 0, status="failed", error=error.message)
        header = usual.header
        model = LocalModel(
            name=target.name,
            engine=VENDOR,
            format=VENDOR,
            size=header.size,
            quantization=usual.quantization,
            quantizations=tuple(variant.quantization for variant in family.variants),
            architecture=header.architecture,
            context_length=target.context_window or header.context_length,
            pinned=any(spec.name == target.name for spec in self._link.rules.pinned),
            failures=told.failures.get(target.name, 0),
        )
        state = next((one for one in told.states if one.name == target.name), None)
        return model if state is None else _with_state(model, state)

    def _looked_up(self, target: Target) -> tuple[Family, Variant]:
        deployments = self._shelf.deployments
        return deployments.family(target), deployments.variant(target)


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


_guard: type[LocalModels] = LocalGGUF
