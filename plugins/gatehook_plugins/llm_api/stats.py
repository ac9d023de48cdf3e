"""GET /stats/usage and /stats/performance, out of the ledger. Callers see what they used; admins see everybody."""

import datetime as dt
from typing import Any

from aiohttp import web

from gatehook import (
    LONGEST_MODEL_NAME,
    PRINCIPAL,
    InvalidRequest,
    Ledger,
    PermissionDenied,
    Unavailable,
    encode,
    total_dollars,
)
from gatehook_plugins.llm_api.period import Period

__all__ = ["Statistics"]

_MONTH = dt.timedelta(days=30)
_HOUR = 3600


class Statistics:
    """The handlers; without a ledger they can only say so."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    async def usage(self, request: web.Request) -> web.Response:
        """What was used and what it cost, in all and by model; of the last 30 days, if the query names no dates.

        Raises:
            InvalidRequest, PermissionDenied: what the query asks for. Unavailable: there is no ledger, or it is away.
        """
        ledger, whose, model = self._opened(), _whose(request), _text(request, "model")
        period = Period.of_dates(request.query, _MONTH)
        used = await ledger.usage(period.start, period.end, user_id=whose, model=model)
        return _json(
            {
                "period": period.written(),
                "total_requests": sum(one.requests for one in used),
                "total_tokens": sum(one.prompt_tokens + one.completion_tokens for one in used),
                "total_cost": total_dollars(one.cost for one in used),
                "by_model": {
                    one.model: {
                        "requests": one.requests,
                        "tokens": one.prompt_tokens + one.completion_tokens,
                        "cost": total_dollars([one.cost]),
                    }
                    for one in used
                },
            }
        )

    async def performance(self, request: web.Request) -> web.Response:
        """How requests went; in the last hour, if the query names neither a window nor dates.

        The rates are shares, from 0 to 1, of the requests that were answered or failed: what was refused before a
        vendor was asked is in neither.

        Raises:
            InvalidRequest, PermissionDenied: what the query asks for. Unavailable: there is no ledger, or it is away.
        """
        ledger, whose, model = self._opened(), _whose(request), _text(request, "model")
        period = Period.of_window(request.query, _HOUR)
        seen = await ledger.performance(period.start, period.end, user_id=whose, model=model)
        tried = seen.answered + seen.failed
        minutes = period.minutes
        return _json(
            {
                "window": period.written(),
                "response_times": {
                    "average_ms": seen.average,
                    "p50_ms": seen.p50,
                    "p95_ms": seen.p95,
                    "p99_ms": seen.p99,
                },
                "success_rate": seen.answered / tried if tried else None,
                "error_rate": seen.failed / tried if tried else None,
                "throughput": {
                    "requests_per_minute": seen.requests / minutes if minutes else 0.0,
                    "tokens_per_minute": seen.tokens / minutes if minutes else 0.0,
                },
            }
        )

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise Unavailable(
                "statistics come out of the ledger, which is off; enable [plugins.ledger]", code="ledger_disabled"
            )
        return self._ledger


def _whose(request: web.Request) -> str | None:
    """The user whose usage is shown; None for everybody's.

    Raises:
        PermissionDenied: somebody else's, and the caller is no admin.
    """
    principal, asked = request[PRINCIPAL], _text(request, "user_id")
    if principal.admin:
        return asked
    if asked is not None and asked != principal.id:
        raise PermissionDenied("user_id: only an admin may see what others used", code="admin_required")
    return principal.id


def _text(request: web.Request, name: str) -> str | None:
    """A name in the query, None if it is not given.

    Raises:
        InvalidRequest: it is too long, or holds what no name can.
    """
    text = request.query.get(name) or None
    if text is not None and (len(text) > LONGEST_MODEL_NAME or not text.isprintable()):
        raise InvalidRequest(f"{name}: expected at most {LONGEST_MODEL_NAME} printable characters", param=name)
    return text


def _json(value: Any) -> web.Response:
    return web.Response(body=encode(value), headers={"Content-Type": "application/json", "Cache-Control": "no-store"})
