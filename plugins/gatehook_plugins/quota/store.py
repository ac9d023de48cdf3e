"""What the quota keeps in the database: balances of users, leases of processes, reservations of calls to come.

Whoever changes what a user has used or may use holds the lock of its balance "all" for the rest of the transaction,
users in the order of their ids; so grants of several processes come one after another, and nobody waits in a circle.
(SQLite has but one writing transaction at a time.) Leases are only ever taken away without that lock.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from gatehook_plugins.quota.account import NOTHING, Amount, Standing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = [
    "BALANCES",
    "LEASES",
    "MS_A_DAY",
    "RESERVATIONS",
    "TABLES",
    "add",
    "book_lost",
    "free_leases",
    "others",
    "release",
    "renew",
    "reserve",
    "reserved",
    "standings",
    "take",
    "take_reserved",
    "used",
    "write",
]

MS_A_DAY: Final = 86_400_000

TABLES: Final = sa.MetaData()

BALANCES: Final = sa.Table(
    "balances",
    TABLES,
    sa.Column("user_id", sa.String, primary_key=True),
    sa.Column("period", sa.String, primary_key=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
)
"""What each user has used in a period: "all", or a day or month of UTC ("2026-11-21", "2026-11")."""

LEASES: Final = sa.Table(
    "leases",
    TABLES,
    sa.Column("user_id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, primary_key=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
    sa.Column("renewed", sa.BigInteger, nullable=False),
    sa.Column("booked", sa.BigInteger, nullable=False),
)
"""What process `owner` may use without asking; `renewed` (epoch ms) tells that it lives.

`booked` is 0, or when (epoch ms) the lease was written into the balances because its owner seemed lost for good.
"""


RESERVATIONS: Final = sa.Table(
    "reservations",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("user_id", sa.String, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("nano", sa.BigInteger, nullable=False),
)
"""What is kept for a call that is made later, whichever process makes it; less what has been booked of it."""


Periods = tuple[str, str, str]
"""The periods that a moment falls into, as the balances name them: all time, a day, a month."""


@functools.lru_cache(maxsize=1000)
def _of_day(day: int) -> Periods:
    date = datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
    return "all", date, date[:7]


def _periods(at: int) -> Periods:
    """Those of a moment, in epoch milliseconds."""
    return _of_day(at // MS_A_DAY)


async def standings(
    connection: AsyncConnection, owner: str, users: Iterable[str], now: int, *, beside: str = ""
) -> dict[str, Standing]:
    """How each of these users stands at `now` (epoch ms), as process `owner` sees it ("": as none). Locks them.

    What other machines, whose clocks are ahead, have already booked on tomorrow counts as today's where it is more.
    The reservation `beside` is left out.
    """
    users = sorted(users)
    await _lock(connection, users)
    if owner:
        await _take_back(connection, LEASES.c.owner == owner, LEASES.c.user_id.in_(users))
    booked, ahead = await _balances(connection, users, _periods(now), _periods(now + MS_A_DAY))
    leased: dict[str, Amount] = {}
    rows = await connection.execute(
        sa.select(LEASES.c.user_id, LEASES.c.tokens, LEASES.c.nano).where(
            LEASES.c.user_id.in_(users), LEASES.c.owner != owner, LEASES.c.booked == 0
        )
    )
    for user, tokens, nano in rows:
        leased[user] = leased.get(user, NOTHING) + Amount(tokens, nano)
    for user, amount in (await _reservations(connection, users, beside)).items():
        leased[user] = leased.get(user, NOTHING) + amount

    def standing(user: str) -> Standing:
        total, day, month = map(Amount.at_least, booked[user], ahead[user])
        return Standing(total, day, month, leased.get(user, NOTHING))

    return {user: standing(user) for user in users}


async def _reservations(connection: AsyncConnection, users: Sequence[str], beside: str) -> dict[str, Amount]:
    """What is reserved in all, by user, but for one reservation."""
    found, tokens, nano = RESERVATIONS, sa.func.sum(RESERVATIONS.c.tokens), sa.func.sum(RESERVATIONS.c.nano)
    rows = await connection.execute(
        sa.select(found.c.user_id, tokens, nano)
        .where(found.c.user_id.in_(users), found.c.name != beside)
        .group_by(found.c.user_id)
    )
    return {user: Amount(int(tokens), int(nano)) for user, tokens, nano in rows}


async def reserved(connection: AsyncConnection, name: str) -> Amount:
    """What is left of a reservation; nothing if there is none."""
    found = RESERVATIONS
    row = (await connection.execute(sa.select(found.c.tokens, found.c.nano).where(found.c.name == name))).first()
    return NOTHING if row is None else Amount(row.tokens, row.nano)


async def reserve(connection: AsyncConnection, name: str, user: str, amount: Amount) -> None:
    """Set a reservation of a user, who is locked."""
    insert = _insert(connection, RESERVATIONS)
    new = {column: insert.excluded[column] for column in ("tokens", "nano")}
    row = {"name": name, "user_id": user, "tokens": amount.tokens, "nano": amount.nano}
    await connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new), [row])


async def release(connection: AsyncConnection, name: str) -> None:
    """Delete a reservation, if it is there."""
    await connection.execute(sa.delete(RESERVATIONS).where(RESERVATIONS.c.name == name))


async def used(connection: AsyncConnection, user_id: str, now: int) -> tuple[Amount, Amount, Amount]:
    """What a user has used in all, and in the day and the month of `now` (epoch ms)."""
    (balances,) = await _balances(connection, [user_id], _periods(now))
    return balances[user_id]


async def _balances(
    connection: AsyncConnection, users: Sequence[str], *moments: Periods
) -> list[dict[str, tuple[Amount, Amount, Amount]]]:
    """For each of `moments`, the balances of its periods, by user."""
    names = {name for at in moments for name in at}
    found: dict[tuple[str, str], Amount] = {}
    rows = await connection.execute(
        sa.select(BALANCES).where(BALANCES.c.user_id.in_(users), BALANCES.c.period.in_(names))
    )
    for user, period, tokens, nano in rows:
        found[user, period] = Amount(tokens, nano)

    def of(user: str, at: Periods) -> tuple[Amount, Amount, Amount]:
        total, day, month = (found.get((user, name), NOTHING) for name in at)
        return total, day, month

    return [{user: of(user, at) for user in users} for at in moments]


async def write(connection: AsyncConnection, owner: str, leases: Mapping[str, Amount], now: int) -> None:
    """Set the leases of process `owner` for these users, which are locked; a lease of nothing is none."""
    kept = [
        {"user_id": user, "owner": owner, "tokens": lease.tokens, "nano": lease.nano, "renewed": now, "booked": 0}
        for user, lease in sorted(leases.items())
        if lease
    ]
    if kept:
        insert = _insert(connection, LEASES)
        new = {name: insert.excluded[name] for name in ("tokens", "nano", "renewed")}
        await connection.execute(insert.on_conflict_do_update(index_elements=["user_id", "owner"], set_=new), kept)
    if gone := [user for user, lease in leases.items() if not lease]:
        await connection.execute(sa.delete(LEASES).where(LEASES.c.owner == owner, LEASES.c.user_id.in_(gone)))


_ADD: Final = """
INSERT INTO balances (user_id, period, tokens, nano) VALUES (?, ?, ?, ?)
ON CONFLICT (user_id, period)
DO UPDATE SET tokens = balances.tokens + excluded.tokens, nano = balances.nano + excluded.nano
"""
_TAKE: Final = """
UPDATE leases SET tokens = greatest(tokens - ?, 0), nano = greatest(nano - ?, 0)
WHERE user_id = ? AND owner = ? AND booked = 0
"""
_TAKE_RESERVED: Final = """
UPDATE reservations SET tokens = greatest(tokens - ?, 0), nano = greatest(nano - ?, 0) WHERE name = ?
"""
"""These go with every group of the ledger's rows, so they are handed to the driver as they are: SQLAlchemy would spend
more on a row's parameters than the database on the row."""


async def add(connection: AsyncConnection, used: Iterable[tuple[tuple[str, int], Sequence[int]]]) -> None:
    """Add to balances what was used: by user and day of the epoch, tokens and nano-dollars. Locks the users."""
    sums: dict[str, dict[str, list[int]]] = {}
    for (user, day), (tokens, nano) in used:
        if tokens or nano:
            periods = sums.setdefault(user, {})
            for name in _of_day(day):
                of_period = periods.setdefault(name, [0, 0])
                of_period[0] += tokens
                of_period[1] += nano
    # "all" comes first of a user's: it is the lock.
    rows = [(user, name, *of_period) for user in sorted(sums) for name, of_period in sums[user].items()]
    await _run(connection, _ADD, rows)


async def take(connection: AsyncConnection, owner: str, used: Mapping[str, Sequence[int]]) -> None:
    """Take from the leases of process `owner`, by user, what has been booked: tokens and nano-dollars."""
    await _run(connection, _TAKE, [(*used[user], user, owner) for user in sorted(used) if any(used[user])])


async def take_reserved(connection: AsyncConnection, used: Mapping[str, Sequence[int]]) -> None:
    """The same from reservations, by name. What was taken back stays booked only: it is not reserved again."""
    taken = {name: [max(amount, 0) for amount in used[name]] for name in sorted(used)}
    await _run(connection, _TAKE_RESERVED, [(*amounts, name) for name, amounts in taken.items() if any(amounts)])


@functools.cache
def _native(statement: str, dialect: str) -> str:
    """A statement as the driver of this dialect takes it."""
    if dialect == "sqlite":
        return statement.replace("greatest(", "max(")
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", statement)


async def _run(connection: AsyncConnection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run a statement for each of these rows, if there are any."""
    if rows:
        await connection.exec_driver_sql(_native(statement, connection.dialect.name), rows)


async def free_leases(connection: AsyncConnection, owner: str) -> None:
    """Delete all leases of process `owner`; those already booked are taken out of the balances again."""
    await _take_back(connection, LEASES.c.owner == owner)
    await connection.execute(sa.delete(LEASES).where(LEASES.c.owner == owner))


async def renew(connection: AsyncConnection, owner: str, now: int) -> None:
    """Tell that process `owner` lives; what was booked because it seemed not to is taken out of the balances again."""
    await _take_back(connection, LEASES.c.owner == owner)
    # Locked in the order in which `take` locks them.
    mine = sa.select(LEASES.c.user_id).where(LEASES.c.owner == owner).order_by(LEASES.c.user_id)
    await connection.execute(mine.with_for_update())
    await connection.execute(sa.update(LEASES).where(LEASES.c.owner == owner).values(renewed=now))


async def others(connection: AsyncConnection, owner: str) -> dict[str, int]:
    """The other processes that hold leases, each with the last time (epoch ms) when it told that it lives."""
    rows = await connection.execute(
        sa.select(LEASES.c.owner, sa.func.max(LEASES.c.renewed))
        .where(LEASES.c.owner != owner, LEASES.c.booked == 0)
        .group_by(LEASES.c.owner)
    )
    return {other: int(renewed) for other, renewed in rows}


async def book_lost(connection: AsyncConnection, owner: str, renewed: int, now: int) -> dict[str, Amount]:
    """Book the leases of a process that is lost for good as used, if it has not told of itself since `renewed`.

    Returns:
        What was booked, by user.
    """
    lost = sa.and_(LEASES.c.owner == owner, LEASES.c.booked == 0)
    users = sorted((await connection.execute(sa.select(LEASES.c.user_id).where(lost))).scalars())
    await _lock(connection, users)
    found = await connection.execute(
        sa.select(LEASES.c.user_id, LEASES.c.tokens, LEASES.c.nano, LEASES.c.renewed).where(lost)
    )
    rows = found.all()
    if any(row.renewed > renewed for row in rows):
        return {}
    booked = {row.user_id: Amount(row.tokens, row.nano) for row in rows if row.user_id in users}
    await add(connection, [((user, now // MS_A_DAY), (lease.tokens, lease.nano)) for user, lease in booked.items()])
    await connection.execute(sa.update(LEASES).where(lost).values(booked=now))
    return booked


async def _take_back(connection: AsyncConnection, *which: sa.ColumnElement[bool]) -> None:
    """Undo `book_lost` for the leases of a process that has turned up."""
    booked = (
        await connection.execute(sa.select(LEASES).where(LEASES.c.booked != 0, *which).order_by(LEASES.c.user_id))
    ).all()
    await add(connection, [((row.user_id, row.booked // MS_A_DAY), (-row.tokens, -row.nano)) for row in booked])
    if booked:
        await connection.execute(sa.update(LEASES).where(LEASES.c.booked != 0, *which).values(booked=0))


async def _lock(connection: AsyncConnection, users: Sequence[str]) -> None:
    if users:
        insert = _insert(connection, BALANCES)
        same = insert.on_conflict_do_update(index_elements=["user_id", "period"], set_={"tokens": BALANCES.c.tokens})
        await connection.execute(same, [{"user_id": user, "period": "all", "tokens": 0, "nano": 0} for user in users])


def _insert(connection: AsyncConnection, table: sa.Table) -> Any:
    """An insert with `on_conflict_do_update`, which each dialect has in a class of its own."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # large, and loaded already where it is used

        return postgresql.insert(table)
    return sqlite.insert(table)
