"""Requests that were answered from a cache: when the very same bytes come again, they are not parsed again."""

from typing import Final, NamedTuple

from gatehook.jsonio import Document
from gatehook.model import Call
from gatehook.protocols import Endpoint

__all__ = ["LONGEST", "Repeats"]

_MOST: Final = 1024
"""Requests that are remembered."""
LONGEST: Final = 4096
"""Bytes of a request that is remembered, so that all of them together take a few megabytes."""


class _Read(NamedTuple):
    """What a surface fills of a call besides its body."""

    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int | None


class Repeats:
    """Recent bodies that were checked, parsed and answered from a cache, with what was read from them."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, bytes], _Read] = {}

    def recall(self, endpoint: Endpoint, call: Call, body: bytes) -> bool:
        """Fill a call as `endpoint.surface` did when these bytes came before; False if they are not known."""
        known = self._read
        if not known or not endpoint.repeats or len(body) > LONGEST:
            return False
        read = known.get((endpoint.path, body))
        if read is None:
            return False
        call.model, call.stream, call.include_usage, call.max_tokens, call.choices = read
        call.body = Document(raw=body)
        return True

    def remember(self, endpoint: Endpoint, call: Call, body: bytes) -> None:
        """Keep what was read, unless a plugin has replaced the body since."""
        if endpoint.repeats and len(body) <= LONGEST and call.body.raw is body:
            if len(self._read) >= _MOST:
                self._read.clear()
            read = _Read(call.model, call.stream, call.include_usage, call.max_tokens, call.choices)
            self._read[endpoint.path, body] = read
