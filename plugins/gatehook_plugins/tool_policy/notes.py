"""Decisions that nobody was asked for, for the audit: written a moment later, many in one transaction.

So no answer waits for a database because a tool was called. The same decision on the same arguments, made again within
that moment, is the same line. What a database that is away does not take is kept; when too much is, models may call no
more tools, and what is left at the end is told in the log: no decision is lost without a word.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Call, Database, Directory, ToolCall, Unavailable, meanwhile
from gatehook_plugins.tool_policy.sessions import arguments_digest, printable

__all__ = ["Decided", "Notes"]

log: Final = logging.getLogger("gatehook.tool_policy")

Decided = Literal["allowed", "denied", "invalid", "returned"]
"""By a rule, or for its arguments: "invalid" is refused, "returned" is told to the model, which may do better."""

_ACTIONS: Final = {"allowed": "tool.allow", "returned": "tool.return"}
_REFUSE: Final = "tool.refuse"
_MOMENT: Final = 1.0
"""Seconds between two writes."""
_AT_ONCE: Final = 100
"""Lines of one transaction."""
_MOST: Final = 10_000
"""Lines that are kept while they cannot be written."""

_Line = tuple[str, str, str, str, Decided]
"""User, model, tool, digest of the arguments, decision."""


class Notes:
    """Those of this process that are not written yet."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory
        self._noted: dict[_Line, int] = {}
        """How often each was made."""

    def note(self, call: Call, tool_call: ToolCall, decided: Decided) -> None:
        """A call was decided about.

        Raises:
            Unavailable: the database has been away for so long that this cannot be kept.
        """
        digest = arguments_digest(tool_call.arguments)
        line = call.principal.id, call.model, printable(tool_call.name), digest, decided
        if line not in self._noted and len(self._noted) >= _MOST:
            raise Unavailable(
                "tools cannot be called now: what was decided about them cannot be written to the audit",
                code="audit_unavailable",
                retry_after=_MOMENT,
            )
        self._noted[line] = self._noted.get(line, 0) + 1

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Write every moment, and at the end; then tell what could not be written."""
        async with self._database.opened():
            try:
                async with meanwhile(self._keep_writing()):
                    yield
            finally:
                with contextlib.suppress(Unavailable):  # told by the database itself
                    await self.write()
                for (user, model, tool, digest, decided), times in self._noted.items():
                    log.error(
                        "not in the audit: tool %r of model %r for %r: %s, %s, times: %d",
                        tool, model, user, decided, digest, times,
                    )  # fmt: skip

    async def _keep_writing(self) -> None:
        while True:
            await asyncio.sleep(_MOMENT)
            try:
                await self.write()
            except Unavailable:  # told by the database itself; it is tried again
                pass
            except Exception:
                log.exception("decisions about tool calls cannot be written to the audit")

    async def write(self) -> None:
        """Write what was noted; what cannot be written stays noted.

        Raises:
            Unavailable: the database is away.
        """
        while self._noted:
            lines = dict(list(self._noted.items())[:_AT_ONCE])

            async def work(connection: AsyncConnection, lines: dict[_Line, int] = lines) -> None:
                for (user, model, tool, digest, decided), times in lines.items():
                    detail = {"model": model, "decision": decided, "arguments": digest, "times": times}
                    await self._directory.note(connection, user, _ACTIONS.get(decided, _REFUSE), tool, detail)

            await self._database.write(work)
            for line, times in lines.items():
                self._noted[line] -= times
                if not self._noted[line]:
                    del self._noted[line]
