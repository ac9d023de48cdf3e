"""Where packed answers are kept."""

from collections.abc import Awaitable
from typing import Protocol

__all__ = ["Store"]


class Store(Protocol):
    """Keeps bytes for a time; may lose them at any moment, and never fails."""

    def get(self, key: bytes) -> Awaitable[bytes | None] | bytes | None:
        """What is kept under a key, None if there is nothing, or nobody knows. At once, if nobody has to be asked."""
        ...

    def put(self, key: bytes, data: bytes, seconds: float) -> None:
        """Keep it so long at most. Returns at once, also if it is still being written."""
        ...
