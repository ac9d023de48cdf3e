"""Amounts of memory, as people read them."""

import os
from pathlib import Path

__all__ = ["memory_of_machine", "memory_of_process", "shown"]

_UNITS = ("KB", "MB", "GB", "TB")


def shown(size: float) -> str:
    """Bytes as "4.2GB": 1,024 of one unit are one of the next."""
    if size < 1024:
        return f"{size:.0f}B"
    for unit in _UNITS:
        size /= 1024
        if size < 1024 or unit == _UNITS[-1]:
            break
    return f"{size:.1f}{unit}"


def memory_of_process() -> int | None:
    """Bytes that this process has in memory; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_of_machine() -> int | None:
    """Bytes that there are; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
