"""Writes decisions that rules made by themselves into the audit: on disk before the calls concerned go out.

Decisions that are made while one transaction is written share the next, so that many calls wait for the disk together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from gatehook import Call, Database, Directory, ToolCall, Unavailable
from gatehook_plugins.tool_policy.sessions import arguments_digest, printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Decided", "Notes", "OnFailure"]

log: Final = logging.getLogger("gatehook.tool_policy")

Decided = Literal["allowed", "denied", "invalid", "returned"]
"""How a call was decided about: by a rule, or, for arguments that break the schema, "invalid" (the call is refused) or
"returned" (the model is told, and may do better)."""
OnFailure = Literal["closed", "open"]
"""What becomes of tool calls while the audit cannot be written: they are refused, or go out and are told in the log."""

_ACTIONS: Final = {"allowed": "tool.allow", "returned": "tool.return"}
_REFUSE: Final = "tool.refuse"
_AT_ONCE: Final = 100
"""Lines of one transaction."""
_MOST: Final = 10_000
"""Lines that wait to be written; later ones fail at once."""
_RETRY_AFTER: Final = 1.0
"""Seconds."""


class _Line(NamedTuple):
    """What the audit says of one decision."""

    user: str
    model: str
    tool: str
    digest: str
    decided: Decided


class Notes:
    """The decisions of this process that are still to be written."""

    def __init__(self, database: Database, directory: Directory, on_failure: OnFailure) -> None:
        self._database = database
        self._directory = directory
        self._on_failure = on_failure
        self._waiting: list[tuple[_Line, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Have the database open; at the end, wait for lines that are still being written."""
        async with self._database.opened():
            yield
            if self._task is not None:
                await asyncio.wait([self._task])

    async def note(self, call: Call, tool_call: ToolCall, decided: Decided) -> None:
        """Note how a call was decided about; returns when that is in the audit.

        Raises:
            Unavailable: it cannot be written there, and `on_failure` is "closed".
        """
        digest = arguments_digest(tool_call.arguments)
        line = _Line(call.principal.id, call.model, printable(tool_call.name), digest, decided)
        try:
            await self._written(line)
        except Unavailable as error:
            log.error(  # noqa: TRY400  # the database tells why
                "not in the audit: tool %r of model %r for %r: %s, arguments %s",
                line.tool, line.model, line.user, decided, digest,
            )  # fmt: skip
            if self._on_failure == "closed":
                raise Unavailable(
                    "tools cannot be called now: what is decided about them cannot be written to the audit",
                    code="audit_unavailable",
                    retry_after=_RETRY_AFTER,
                ) from error

    async def _written(self, line: _Line) -> None:
        if len(self._waiting) >= _MOST:
            raise Unavailable("too many decisions wait to be written")
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((line, written))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        """Write until nothing waits; in a task of its own, so that a caller who leaves takes no other's line along."""
        while self._waiting:
            group, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            failed: Exception | None = None
            try:
                await self._write([line for line, _ in group])
            except Exception as error:  # noqa: BLE001  # it is raised where each is waited for
                failed = error
            for _, written in group:
                if written.done():
                    continue
                if failed is None:
                    written.set_result(None)
                else:
                    written.set_exception(failed)

    async def _write(self, lines: Sequence[_Line]) -> None:
        async def work(connection: AsyncConnection) -> None:
            for user, model, tool, digest, decided in lines:
                detail = {"model": model, "decision": decided, "arguments": digest}
                await self._directory.note(connection, user, _ACTIONS.get(decided, _REFUSE), tool, detail)

        await self._database.write(work)
