"""Models that run on this machine: the service `LOCAL_MODELS` of the plugin that runs them."""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

from gatehook.services.registry import ServiceKey

__all__ = ["LOCAL_MODELS", "LocalLimits", "LocalModel", "LocalModels"]


class LocalModel(Struct, frozen=True):
    """A model whose weights are on this machine, and its current state."""

    name: str
    """What clients ask for."""
    engine: str
    """Which engine runs it: "gguf"."""
    format: str
    """Of its file: "gguf"."""
    size: int
    """Bytes of its file, or files, in the quantization below."""
    quantization: str
    """The one that is loaded, or would be: "Q4_K_M"; "" if the file does not tell."""
    quantizations: Sequence[str]
    """Those there are, the largest first."""
    architecture: str
    """As the file tells it: "llama"."""
    context_length: int
    """Tokens that a request and its answer may have together; while it is not loaded, as its file says."""
    status: Literal["unloaded", "loading", "loaded", "failed"] = "unloaded"
    progress: float | None = None
    """How much of it is loaded, 0 to 1; None unless it is loading."""
    loaded_at: float | None = None
    """Epoch seconds."""
    memory: int | None = None
    """Bytes in use; None if it is not loaded."""
    error: str = ""
    """Why it failed."""
    pinned: bool = False
    """Whether it is never unloaded to make room."""
    active: int = 0
    """Requests it is answering."""
    failures: int = 0
    """How often its process has crashed, or could not load it."""

    @property
    def loaded(self) -> bool:
        """Whether it answers at once."""
        return self.status == "loaded"


class LocalLimits(Struct, frozen=True):
    """What all local models together may use, and use now."""

    max_concurrent_models: int
    memory_limit: int
    """Bytes."""
    memory_used: int
    """Bytes, of the models that are loaded or being loaded."""


class LocalModels(Protocol):
    """Models that run on this machine, in processes of their own."""

    @property
    def engine(self) -> str:
        """The engine's name: "gguf"."""
        ...

    async def models(self) -> Sequence[LocalModel]:
        """All of them, loaded or not, by name; looks for new files first.

        Raises:
            Unavailable: the process that keeps them does not answer.
        """
        ...

    async def load(self, name: str, quantization: str | None = None, prefer_gpu: bool | None = None) -> LocalModel:
        """Load one, or wait until it is loaded, which may take minutes. Another quantization replaces the loaded one.

        Args:
            name: the public name.
            quantization: one of `quantizations`, in any case; None: the one that is loaded, or the settings' choice.
            prefer_gpu: True puts all layers on a GPU, False none; None: as the settings say.

        Raises:
            ModelNotFound: there is none. InvalidRequest: it does not have this quantization.
            Unavailable: there is no room for it (`no_free_slot`, `model_too_large`), or it cannot be loaded
            (`model_load_failed`).
        """
        ...

    async def unload(self, name: str) -> LocalModel:
        """Unload one, as soon as it has answered its requests, and free its memory.

        No request is dropped; those that come meanwhile wait, and then load it again (if `auto_load` is on).

        Raises:
            ModelNotFound: there is none. Unavailable: the process that keeps them does not answer.
        """
        ...

    async def limits(self) -> LocalLimits:
        """How much they may take.

        Raises:
            Unavailable: the process that keeps them does not answer.
        """
        ...


LOCAL_MODELS: ServiceKey[LocalModels] = ServiceKey("local_models", provider="vendor_gguf")
