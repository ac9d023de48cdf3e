"""The paths of the host's and the engines' sockets, in the gateway's own folder."""

import os
from pathlib import Path
from typing import Final

__all__ = ["LONGEST_PATH", "engine_socket", "host_socket"]

LONGEST_PATH: Final = 107
"""The most bytes that the path of a Unix socket may have."""


def host_socket(folder: Path) -> Path:
    """The path of the socket on which the host of this folder listens."""
    return folder / "host.sock"


def engine_socket(folder: Path, number: int) -> Path:
    """The path of the socket of an engine of this process; a host that follows one that was killed has other paths."""
    return folder / f"{os.getpid():x}-{number:x}.sock"
