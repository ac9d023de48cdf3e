"""/admin/usage and /admin/audit: what was used, corrections of it, and what was changed by whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from gatehook import DIRECTORY, LEDGER, NANO, PRINCIPAL, InvalidRequest, Ledger, NotFound, UsageRow
from gatehook_plugins.admin_api.reading import body, query
from gatehook_plugins.admin_api.requests import AuditQuery, Correction, RowsQuery, UsageQuery
from gatehook_plugins.admin_api.routing import Handled
from gatehook_plugins.admin_api.shapes import answer, change_of, page, row_of, usage_of
from gatehook_plugins.admin_api.values import iso, moment, nano_dollars, now, period

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["RecordRoutes"]

_MOST = 1_000_000 * NANO
"""The most nano-dollars that one correction may add or take back."""


class RecordRoutes:
    """The ledger and the audit."""

    def __init__(self, gateway: Gateway) -> None:
        self._directory = gateway.services[DIRECTORY]
        self._services = gateway.services

    def routes(self) -> Iterable[Handled]:
        """Method, path, handler."""
        yield "GET", "/admin/usage", self.usage
        yield "GET", "/admin/usage/requests", self.requests
        yield "POST", "/admin/usage/corrections", self.correct
        yield "GET", "/admin/audit", self.audit

    @property
    def _ledger(self) -> Ledger:
        if LEDGER not in self._services:
            raise NotFound("no usage is kept here; enable [plugins.ledger]", code="ledger_disabled")
        return self._services[LEDGER]

    async def usage(self, request: web.Request) -> web.Response:
        """What was used over a period, of each model."""
        asked = query(request, UsageQuery)
        start, end = period(asked.start_date, asked.end_date, now())
        used = await self._ledger.usage(start, end, user_id=asked.user_id, model=asked.model)
        return answer(
            {
                "period": {"start": iso(start), "end": iso(end)},
                "user_id": asked.user_id,
                "model": asked.model,
                **usage_of(used, by_model=asked.by == "model"),
            }
        )

    async def requests(self, request: web.Request) -> web.Response:
        """Single requests, the newest first; `next_before` leads to those before them."""
        asked = query(request, RowsQuery)
        before = None if asked.before is None else moment(asked.before, "before")
        rows, more = await self._whole_moments(asked, before)
        following = iso(rows[-1].at) if more else None
        return answer({"object": "list", "data": [row_of(row) for row in rows], "has_more": more,
                       "next_before": following})  # fmt: skip

    async def _whole_moments(self, asked: RowsQuery, before: int | None) -> tuple[Sequence[UsageRow], bool]:
        """About as many rows as are asked for, and whether there are more.

        The next page goes by time, so all that ended in one millisecond is on one page: it ends before the one that
        it would have to cut, unless that is all there is.
        """
        limit = asked.limit
        while True:
            rows = await self._ledger.rows(user_id=asked.user_id, model=asked.model, before=before, limit=limit + 1)
            if len(rows) <= limit:
                return rows, False
            whole = [row for row in rows if row.at != rows[-1].at]
            if whole:
                return whole, True
            limit *= 2

    async def correct(self, request: web.Request) -> web.Response:
        """Usage added or taken back by hand: 201 with the row that does it."""
        asked = await body(request, Correction)
        cost = nano_dollars(asked.cost, "cost", least=-_MOST, most=_MOST)
        if not asked.reason.strip():
            raise InvalidRequest("reason: must not be empty", param="reason")
        ledger = self._ledger
        if await self._directory.user(asked.user_id) is None and not await ledger.rows(user_id=asked.user_id, limit=1):
            raise NotFound(
                f"there is no user {asked.user_id!r}, and nobody of that name has used anything",
                param="user_id",
                code="user_not_found",
            )
        row = await ledger.correct(
            request[PRINCIPAL].actor,
            asked.user_id,
            model=asked.model,
            tokens=asked.tokens,
            cost=cost,
            reason=asked.reason,
        )
        return answer(row_of(row), 201)

    async def audit(self, request: web.Request) -> web.Response:
        """Changes, the newest first."""
        asked = query(request, AuditQuery)
        lines = await self._directory.audit(before=asked.before, limit=asked.limit + 1)
        return page([change_of(line) for line in lines], asked.limit)
