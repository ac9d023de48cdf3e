"""Where the host and the engines listen: in the gateway's own folder, under paths that a Unix socket can have."""

import os
from pathlib import Path
from typing import Final

__all__ = ["LONGEST_PATH", "engine_socket", "host_socket"]

LONGEST_PATH: Final = 107
"""Bytes that the path of a Unix socket may have."""


def host_socket(folder: Path) -> Path:
    """Where the host of this folder listens."""
    return folder / "host.sock"


def engine_socket(folder: Path, number: int) -> Path:
    """Where an engine of this process listens; a host that takes the place of one that was killed uses other names."""
    return folder / f"{os.getpid():x}-{number:x}.sock"
