"""What an engine is told when it is begun: one JSON line on its standard input."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

__all__ = ["LONGEST_DEFAULT_CONTEXT", "MOST_SLOTS", "EngineOptions", "option_faults"]

LONGEST_DEFAULT_CONTEXT: Final = 8192
"""The most tokens of context where nobody says how many: models are trained for more than most machines can hold."""
MOST_SLOTS: Final = 256
"""Sequences that the library can have."""
_LEAST: Final = {"context": 0, "slots": 1, "batch": 1, "threads": 0, "gpu_layers": -1, "step_timeout": 0}
_LARGEST: Final = 2**31 - 1
_POOLINGS: Final = ("", "mean", "cls", "last")
_LONGEST: Final = 1 << 18
"""The most characters of a chat template, as it is sent in messages of bounded length; real ones have some 10,000."""


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one model is to be run."""

    path: str
    """Path of the GGUF file; of its first part, if it is in parts."""
    socket: str
    """Path of the Unix socket on which the engine listens."""
    name: str
    """The model's name in answers to requests that name none."""
    context: int = 0
    """Tokens a request and its answer may have together; 0 for what the file says, within bounds."""
    slots: int = 4
    """Requests that are answered at the same time."""
    batch: int = 512
    """The most tokens of prompts that are read in one step."""
    threads: int = 0
    """Threads that compute; 0 for all cores but one."""
    gpu_layers: int = 0
    """Layers on a GPU; -1 for all."""
    chat_template: str | None = None
    """A Jinja template; None for the file's own."""
    embedding: bool = False
    """Whether the model makes embeddings, and writes no text."""
    pooling: str = ""
    """mean, cls or last; "" for what the file says."""
    reasoning: tuple[str, str] | None = None
    """The tags before and after the reasoning in an answer, such as <think> and </think>."""
    seed: int | None = None
    """The seed of requests that give none; None for a random one each."""
    step_timeout: float = 300.0
    """Seconds without a sign of life after which the engine counts as hung; 0 for ever."""


def option_faults(options: Mapping[str, Any]) -> Sequence[str]:
    """What is wrong with these options, by their names; options that are missing or None are not checked."""
    given = {name: value for name, value in options.items() if value is not None}
    found = []
    for name, least in _LEAST.items():
        if not least <= given.get(name, least) <= (most := MOST_SLOTS if name == "slots" else _LARGEST):
            found.append(f"{name} must be {least} or more" + (f", and {most} at most" if given[name] > most else ""))
    if given.get("pooling", "") not in _POOLINGS:
        found.append("pooling must be 'mean', 'cls' or 'last'")
    if len(given.get("chat_template", "")) + sum(map(len, given.get("reasoning", ()))) > _LONGEST:
        found.append(f"chat_template and reasoning must have {_LONGEST} characters together, or fewer")
    return found
