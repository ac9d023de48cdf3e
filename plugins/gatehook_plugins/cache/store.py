"""Where packed answers are kept."""

from typing import Protocol

__all__ = ["Store"]


class Store(Protocol):
    """Keeps bytes for a time; may lose them at any moment, and never fails."""

    async def get(self, key: bytes) -> bytes | None:
        """What is kept under a key, None if there is nothing, or nobody knows."""
        ...

    def put(self, key: bytes, data: bytes, seconds: float) -> None:
        """Keep it so long at most. Returns at once, also if it is still being written."""
        ...
