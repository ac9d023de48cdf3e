"""Calls that were refused without a question, for the audit: written a little later, and repetitions as one line.

So a request waits for no database to be refused, and who asks for the same again and again cannot fill the audit.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from msgspec import Struct

from gatehook import Call, Database, Directory, ToolCall, Unavailable, meanwhile
from gatehook_plugins.tool_policy.sessions import arguments_digest, printable

__all__ = ["Refusals"]

log: Final = logging.getLogger("gatehook.tool_policy")

_EVERY: Final = 5.0
"""Seconds between two writes."""
_MOST: Final = 100
"""Lines of one write; what is refused beyond that is only counted."""


class _Refused(Struct):
    """Alike refusals: how many, and of the first, what the call was made with."""

    detail: dict[str, Any]
    times: int = 0


class Refusals:
    """Those of this process that are not written yet."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory
        self._noted: dict[tuple[str, str, str, str], _Refused] = {}
        """By user, model, tool and why."""
        self._beyond = 0

    def note(self, call: Call, tool_call: ToolCall, why: str) -> None:
        """A call was refused; `why` is "denied" (by a rule) or "invalid"."""
        tool = printable(tool_call.name)
        key = call.principal.id, call.model, tool, why
        refused = self._noted.get(key)
        if refused is None:
            if len(self._noted) >= _MOST:
                self._beyond += 1
                return
            detail = {"model": call.model, "decision": why, "arguments": arguments_digest(tool_call.arguments)}
            refused = self._noted[key] = _Refused(detail)
        refused.times += 1

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Write now and then, and at the end."""
        async with self._database.opened():
            try:
                async with meanwhile(self._keep_writing()):
                    yield
            finally:
                with contextlib.suppress(Unavailable):  # told by the database itself
                    await self.write()

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.write()
            except Unavailable:  # told by the database itself; it is tried again
                pass
            except Exception:
                log.exception("refused tool calls cannot be written to the audit")

    async def write(self) -> None:
        """Write what was noted, in one transaction; what cannot be written stays noted.

        Raises:
            Unavailable: the database is away.
        """
        if not self._noted:
            return
        noted, beyond = dict(self._noted), self._beyond
        told = {key: one.times for key, one in noted.items()}
        async with self._database.writing() as connection:
            for key, one in noted.items():
                user, _, tool, _ = key
                await self._directory.note(connection, user, "tool.refuse", tool, {**one.detail, "times": told[key]})
            if beyond:
                await self._directory.note(connection, "gateway", "tool.refuse", "*", {"times": beyond})
        self._beyond -= beyond
        for key, times in told.items():
            self._noted[key].times -= times
            if not self._noted[key].times:
                del self._noted[key]
