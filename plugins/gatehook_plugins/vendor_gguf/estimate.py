"""How much memory a model will need, estimated from its header before it is loaded."""

import os
from pathlib import Path
from typing import Final

from gatehook_plugins.vendor_gguf.header import Header
from gatehook_plugins.vendor_gguf.options import LONGEST_DEFAULT_CONTEXT, EngineOptions

__all__ = ["PROCESS", "context_of", "machine_memory", "need", "size_text"]

_CELL: Final = 2
"""Bytes of one number in the key-value cache (f16)."""
PROCESS: Final = 64 << 20
"""Bytes of a process with the library and nothing loaded."""
_CGROUPS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def context_of(header: Header, context: int) -> int:
    """Tokens that a request and its answer may have together; `context` 0: what the file says, within bounds."""
    known = header.context_length
    return context or min(known or LONGEST_DEFAULT_CONTEXT, LONGEST_DEFAULT_CONTEXT)


def need(header: Header, options: EngineOptions) -> int:
    """Bytes that a model takes when it is loaded with these options, rather too many than too few.

    They are those of the weights, of the key-value cache of all slots, and what one step of computing needs.
    """
    tokens = context_of(header, options.context) * max(1, options.slots)
    step = options.batch * (4 * header.vocabulary + 64 * header.width)
    return header.size + tokens * header.cells * _CELL + step + PROCESS


def machine_memory() -> int:
    """Bytes of memory that this machine has, or this container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _CGROUPS:
        try:
            told = Path(file).read_text("ascii").strip()
        except OSError:
            continue
        if told.isdigit():  # "max": no limit
            memory = min(memory, int(told))
    return memory


def size_text(size: int) -> str:
    """Bytes as people say them: "4.2 GB"."""
    if size < 10**9:
        return f"{size / 10**6:.1f} MB"
    return f"{size / 10**9:.1f} GB"
