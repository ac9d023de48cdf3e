"""The plugin: the settings of [plugins.vendor_gguf], and its hooks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt

from gatehook import CATALOG, LOCAL_MODELS, GatewayError, Router, Section, ServiceKey, StartupError, Vendor, hookimpl
from gatehook_plugins.vendor_gguf.deployments import VENDOR, Defaults, Deployments
from gatehook_plugins.vendor_gguf.estimate import machine_memory
from gatehook_plugins.vendor_gguf.header import BadFile
from gatehook_plugins.vendor_gguf.library import Library
from gatehook_plugins.vendor_gguf.link import Link
from gatehook_plugins.vendor_gguf.messages import Rules, Spec
from gatehook_plugins.vendor_gguf.options import MOST_SLOTS
from gatehook_plugins.vendor_gguf.service import LocalGGUF
from gatehook_plugins.vendor_gguf.shelf import Shelf
from gatehook_plugins.vendor_gguf.vendor import INSTALL, GGUFVendor, is_installed

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["VendorGGUF"]

_SHARE = 0.8
"""The share of this machine's memory for models, where the settings do not say how much."""

Count = Annotated[int, Field(ge=0)]


class VendorGGUF:
    """Provides the vendor "gguf", and the service `LOCAL_MODELS`."""

    class Settings(Section):
        """[plugins.vendor_gguf]."""

        models_dir: str = Field(
            default="", description="every GGUF file in this folder, and in those within it, is a model; '' for none"
        )
        quantization: str = Field(
            default="", description="of models that have several, as in 'Q4_K_M'; '' for the largest that memory holds"
        )
        max_concurrent_models: PositiveInt = Field(
            default=3, description="models that are loaded at the same time; MAX_CONCURRENT_MODELS sets it"
        )
        memory_limit: ByteSize = Field(
            default=ByteSize(0), description="memory for all of them, as in '24GB'; 0 for four fifths of this machine's"
        )
        auto_load: bool = Field(default=True, description="load a model when a request names it; false: only when told")
        pinned: list[str] = Field(default=[], description="names of models that are loaded at the start, and stay")
        idle_ttl: float = Field(default=900.0, ge=0, description="seconds unused until a model is unloaded; 0: never")
        queue_timeout: PositiveFloat = Field(default=60.0, description="seconds a request may wait for room")
        load_timeout: PositiveFloat = Field(default=600.0, description="seconds that loading a model may take")
        switch_after: float = Field(
            default=5.0, ge=0, description="seconds after which a busy model finishes, and goes, for one that waits"
        )
        context: Count = Field(
            default=0, description="tokens of a request and its answer; 0: what the model has, up to 8192"
        )
        slots: PositiveInt = Field(
            default=4, le=MOST_SLOTS, description="requests that a model answers at the same time"
        )
        batch: PositiveInt = Field(default=512, description="tokens of prompts that are read in one step, at most")
        threads: Count = Field(default=0, description="threads of each model; 0: all cores but one")
        gpu_layers: int = Field(default=0, ge=-1, description="layers on a GPU, if llama.cpp is built for it; -1: all")
        step_timeout: float = Field(
            default=300.0,
            ge=0,
            description="seconds without a sign of life after which a model's process is hung, and ended; 0: never",
        )

    requires = (CATALOG,)

    @staticmethod
    def models_at(path: Path) -> Sequence[Mapping[str, Any]]:
        """The [[models]] tables that `gatehook models add` writes for a GGUF file, or for a folder of them.

        Of several quantizations it takes the largest that this machine's memory holds.

        Raises:
            StartupError: it should be a GGUF file, and is none.
        """
        try:
            if path.is_file():
                found = [Library(None).family_at(path)] if path.suffix.lower() == ".gguf" else []
            else:
                found = list(Library(path).families().values())
        except BadFile as error:
            raise StartupError(f"{path}: {error}") from None
        files = [(one.name, path if path.is_file() else one.fitting(_usual_memory()).path) for one in found]
        return [{"name": name, "vendor": VENDOR, "options": {"path": str(file)}} for name, file in files]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Made before the workers are forked, so all of one generation have the same; by a clock that is never set back.
        self._stamp = time.monotonic()
        self._shelf: Shelf
        self._link: Link

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[Any], object]]:
        """`LOCAL_MODELS`."""
        self._link = Link()
        self._shelf = Shelf(self._deployments(gateway), gateway.services[CATALOG])
        return [(LOCAL_MODELS, LocalGGUF(self._shelf, self._link))]

    @hookimpl
    def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
        """The one vendor."""
        return [GGUFVendor(gateway.egress, self._shelf, self._link)]

    @hookimpl
    def register_routers(self) -> Iterable[Router]:
        """The shelf, which looks for new files when no other router knows a name."""
        return [self._shelf] if self._settings.models_dir else []

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The shelf, which watches the files, and the link to the host, which keeps the models."""

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            if not is_installed():
                raise StartupError(f"[plugins.vendor_gguf] {INSTALL}; or set enabled = false")
            async with self._shelf.lifespan():
                with _folder(gateway.runtime) as folder:
                    async with self._link.lifespan(folder, await self._rules()):
                        yield

        return [lifespan]

    def _memory(self) -> int:
        """Bytes of memory that all models may take."""
        return int(self._settings.memory_limit) or _usual_memory()

    async def _rules(self) -> Rules:
        settings = self._settings
        return Rules(
            stamp=self._stamp,
            max_concurrent_models=settings.max_concurrent_models,
            memory_limit=await asyncio.to_thread(self._memory),
            auto_load=settings.auto_load,
            idle_ttl=settings.idle_ttl,
            queue_timeout=settings.queue_timeout,
            load_timeout=settings.load_timeout,
            switch_after=settings.switch_after,
            pinned=await self._pinned(),
        )

    def _deployments(self, gateway: Gateway) -> Deployments:
        settings = self._settings
        defaults = Defaults(
            settings.quantization,
            settings.context,
            settings.slots,
            settings.batch,
            settings.threads,
            settings.gpu_layers,
            settings.step_timeout,
            self._memory,
        )
        base = gateway.settings.path.parent
        folder = base / Path(settings.models_dir).expanduser() if settings.models_dir else None
        local = [target for target in gateway.settings.targets if target.vendor == VENDOR]
        trusted = {str(target.options.get("path", "")) for target in local}
        return Deployments(Library(folder), defaults, base, trusted, self._stamp)

    async def _pinned(self) -> tuple[Spec, ...]:
        """The models that are always loaded.

        Raises:
            StartupError: one of them does not exist, or there are too many.
        """
        pinned = []
        for name in self._settings.pinned:
            try:
                pinned.append(await self._shelf.spec(self._shelf.target(name)))
            except GatewayError as error:
                raise StartupError(f"[plugins.vendor_gguf] pinned: {error.message}") from None
        if len(pinned) > self._settings.max_concurrent_models:
            raise StartupError("[plugins.vendor_gguf] pinned: more models than max_concurrent_models")
        return tuple(pinned)


def _usual_memory() -> int:
    return int(_SHARE * machine_memory())


@contextlib.contextmanager
def _folder(runtime: Path | None) -> Iterator[Path]:
    """The folder of the sockets: the gateway's own, or a temporary one if it has none."""
    if runtime is not None:
        yield runtime
        return
    folder = Path(tempfile.mkdtemp(prefix="gatehook-gguf-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
