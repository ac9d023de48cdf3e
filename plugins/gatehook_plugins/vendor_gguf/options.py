"""What an engine is told when it is begun: one JSON line on its standard input."""

import msgspec

__all__ = ["EngineOptions"]


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one model is to be run."""

    path: str
    """Of the GGUF file, the first one if it is in parts."""
    socket: str
    """Where the engine listens."""
    name: str
    """What the model is called in answers to requests that name none."""
    context: int = 0
    """Tokens a request and its answer may have together; 0 for what the file says, within bounds."""
    slots: int = 4
    """Requests that are answered at the same time."""
    batch: int = 512
    """Tokens of prompts that are read in one step, at most."""
    threads: int = 0
    """0 for all cores but one."""
    gpu_layers: int = 0
    """Layers on a GPU; -1 for all."""
    chat_template: str | None = None
    """Jinja; None for the file's own."""
    embedding: bool = False
    """Whether it makes embeddings, and writes no text."""
    pooling: str = ""
    """mean, cls or last; "" for what the file says."""
    reasoning: tuple[str, str] | None = None
    """What stands before and after the part of an answer that is reasoning."""
    seed: int | None = None
    """Of requests that give none; None for a random one each."""
