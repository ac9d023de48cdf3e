"""Where the answers of jobs are kept: in a row, or, if they are large, in the file store."""

import logging
from typing import Final

from msgspec import Struct

from gatehook import FileStore, GatewayError, NotFound, Unavailable

__all__ = ["Kept", "Results"]

log: Final = logging.getLogger("gatehook.jobs")


class Kept(Struct, frozen=True):
    """An answer as it is kept: itself, for a row, or the id of the file that holds it."""

    body: bytes | None = None
    file: str | None = None


class Results:
    """Keeps answers. Sizes are in bytes, `retention` is in seconds."""

    def __init__(self, files: FileStore | None, max_inline: int, max_result: int, retention: float) -> None:
        self._files = files
        self._max_inline = max_inline
        self._max_result = max_result
        self._retention = retention

    async def keep(self, body: bytes, owner: str) -> Kept:
        """Keep an answer. It was paid for: if the file store is away, a row takes what it can.

        Raises:
            GatewayError: there is no place for it.
        """
        if len(body) <= self._max_inline:
            return Kept(body)
        if self._files is not None:
            try:
                file = await self._files.put(body, media_type="application/json", owner=owner, keep=self._retention)
                return Kept(file=file.id)
            except Unavailable as error:
                log.warning("the file store took no result of %d bytes: %s", len(body), error.message)
        if len(body) <= self._max_result:
            return Kept(body)
        raise GatewayError(
            f"the result has {len(body)} bytes, and there is no place for more than {self._max_result} "
            "([plugins.jobs] max_result, unless the plugin files keeps it)",
            code="result_too_large",
        )

    def url(self, file: str) -> str | None:
        """Where a kept file can be fetched; None if there is no file store any more."""
        return None if self._files is None else self._files.url(file)

    async def delete(self, file: str) -> None:
        """Delete a file. If the store is away, the file's own time ends it."""
        if self._files is not None:
            try:
                await self._files.delete(file)
            except (Unavailable, NotFound) as error:
                log.warning("the result %s is left to the file store: %s", file, error.message)
