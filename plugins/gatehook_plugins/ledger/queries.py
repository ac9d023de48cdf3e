"""What the ledger knows, asked in SQL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, func, literal_column, select

from gatehook import ModelUsage, Performance, UsageRow
from gatehook_plugins.ledger.table import from_record, usage

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["MOST_ROWS", "By", "Total", "by_model", "performance", "rows", "totals"]

MOST_ROWS = 1000
"""The most rows that are given at once."""

By = Literal["model", "user", "day"]


class Total(NamedTuple):
    """What one model, user or day used; cost in nano-dollars, of the requests whose price is known."""

    name: str | int
    """The model or user; the day as a number, from 0 for 1970-01-01."""
    requests: int
    failed: int
    unpriced: int
    prompt_tokens: int
    completion_tokens: int
    cost: int


_c = usage.c
_DAY = literal_column("86400000", BigInteger)  # no parameter: PostgreSQL would not see that two are the same

_GROUPS: dict[By, ColumnElement[Any]] = {"model": _c.model, "user": _c.user_id, "day": _c.at // _DAY}
_ANSWERED = _c.outcome.in_(("complete", "cached", "partial"))
_IS_REQUEST = _c.outcome != "correction"


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    return func.coalesce(func.sum(column), 0)


def _chosen(start: int, end: int, user_id: str | None, model: str | None) -> list[ColumnElement[bool]]:
    chosen = [_c.at >= start, _c.at < end]
    if user_id is not None:
        chosen.append(_c.user_id == user_id)
    if model is not None:
        chosen.append(_c.model == model)
    return chosen


async def by_model(
    connection: AsyncConnection, start: int, end: int, user_id: str | None, model: str | None
) -> Sequence[ModelUsage]:
    """What was used of each model, by name. Requests that were refused used nothing, and are not counted."""
    found = await totals(connection, "model", start, end, user_id, model)
    return [
        ModelUsage(
            str(one.name),
            one.requests,
            one.prompt_tokens,
            one.completion_tokens,
            one.cost if one.cost or not one.unpriced else None,
        )
        for one in found
    ]


async def totals(
    connection: AsyncConnection, by: By, start: int, end: int, user_id: str | None, model: str | None
) -> Sequence[Total]:
    """What was used by each model, user or day, by name; without requests that were refused."""
    name = _GROUPS[by].label("name")
    query = (
        select(
            name,
            _count(_IS_REQUEST),
            _count(_c.outcome == "failed"),
            _count(_c.input_cost.is_(None)),
            _sum(_c.prompt_tokens),
            _sum(_c.completion_tokens),
            _sum(_c.input_cost) + _sum(_c.output_cost),
        )
        .where(*_chosen(start, end, user_id, model), _c.outcome != "rejected")
        .group_by(name)
        .order_by(name)
    )
    return [Total(one[0], *map(int, one[1:])) for one in await connection.execute(query)]


async def performance(
    connection: AsyncConnection, start: int, end: int, user_id: str | None, model: str | None
) -> Performance:
    """How requests went. Those that were refused are requests, but neither answered nor failed."""
    chosen = [*_chosen(start, end, user_id, model), _IS_REQUEST]
    query = select(
        func.count(),
        _count(_ANSWERED),
        _count(_c.outcome == "failed"),
        _sum(_c.prompt_tokens + _c.completion_tokens),
        func.avg(_c.latency).filter(_ANSWERED),
    ).where(*chosen)
    requests, answered, failed, tokens, average = (await connection.execute(query)).one()
    if not answered:
        return Performance(requests, 0, failed, int(tokens))
    latencies = select(_c.latency).where(*chosen, _ANSWERED).order_by(_c.latency)
    percentiles = [
        await connection.scalar(latencies.offset(_nearest_rank(percent, answered)).limit(1)) for percent in (50, 95, 99)
    ]
    return Performance(requests, answered, failed, int(tokens), float(average), *percentiles)


def _nearest_rank(percent: int, count: int) -> int:
    """The place, from 0, of the value that `percent` of all do not exceed."""
    return max(math.ceil(percent * count / 100), 1) - 1


async def rows(
    connection: AsyncConnection, user_id: str | None, model: str | None, before: int | None, limit: int
) -> Sequence[UsageRow]:
    """Single rows, the newest first."""
    query = select(usage).order_by(_c.at.desc(), _c.id.desc()).limit(max(0, min(limit, MOST_ROWS)))
    if user_id is not None:
        query = query.where(_c.user_id == user_id)
    if model is not None:
        query = query.where(_c.model == model)
    if before is not None:
        query = query.where(_c.at < before)
    return [from_record(one) for one in (await connection.execute(query)).mappings()]
