"""What of the caps is in the database: balances of users, leases of processes, reservations of calls that are to come.

Whoever changes what a user has used or may use holds the lock of its balance "all" for the rest of the transaction,
users in the order of their ids; so grants of several processes come one after another, and nobody waits in a circle.
(SQLite has but one writing transaction at a time.) Leases are only ever taken away without that lock.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook_plugins.quota.account import NOTHING, Amount, Standing

__all__ = [
    "BALANCES",
    "LEASES",
    "RESERVATIONS",
    "TABLES",
    "Periods",
    "add",
    "book_lost",
    "free_leases",
    "others",
    "periods",
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

_MS_A_DAY: Final = 86_400_000

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


class Periods(Struct, frozen=True):
    """The periods that a moment falls into, as the balances name them."""

    total: str
    day: str
    month: str

    @property
    def names(self) -> tuple[str, str, str]:
        """All three."""
        return self.total, self.day, self.month


@functools.lru_cache(maxsize=1000)
def _periods(day: int) -> Periods:
    date = datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
    return Periods("all", date, date[:7])


def periods(at: int) -> Periods:
    """Those of a moment, in epoch milliseconds."""
    return _periods(at // _MS_A_DAY)


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
    booked, ahead = await _balances(connection, users, periods(now), periods(now + _MS_A_DAY))
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


async def take_reserved(connection: AsyncConnection, used: Mapping[str, Amount]) -> None:
    """Take from reservations, by name, what has been booked."""
    await _take(connection, RESERVATIONS, RESERVATIONS.c.name == sa.bindparam("taker"), used)


async def used(connection: AsyncConnection, user_id: str, now: int) -> tuple[Amount, Amount, Amount]:
    """What a user has used in all, and in the day and the month of `now` (epoch ms)."""
    (balances,) = await _balances(connection, [user_id], periods(now))
    return balances[user_id]


async def _balances(
    connection: AsyncConnection, users: Sequence[str], *moments: Periods
) -> list[dict[str, tuple[Amount, Amount, Amount]]]:
    """Of each moment's periods, by user."""
    names = {name for at in moments for name in at.names}
    found: dict[tuple[str, str], Amount] = {}
    rows = await connection.execute(
        sa.select(BALANCES).where(BALANCES.c.user_id.in_(users), BALANCES.c.period.in_(names))
    )
    for user, period, tokens, nano in rows:
        found[user, period] = Amount(tokens, nano)

    def of(user: str, at: Periods) -> tuple[Amount, Amount, Amount]:
        total, day, month = (found.get((user, name), NOTHING) for name in at.names)
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


async def add(connection: AsyncConnection, used: Mapping[tuple[str, str], Amount]) -> None:
    """Add to balances, given by user and period. Locks the users."""
    if not used:
        return
    insert = _insert(connection, BALANCES)
    summed = {name: BALANCES.c[name] + insert.excluded[name] for name in ("tokens", "nano")}
    rows = [
        {"user_id": user, "period": period, "tokens": amount.tokens, "nano": amount.nano}
        # "all" comes first of a user's: it is the lock.
        for (user, period), amount in sorted(used.items(), key=lambda one: (one[0][0], one[0][1] != "all", one[0][1]))
    ]
    await connection.execute(insert.on_conflict_do_update(index_elements=["user_id", "period"], set_=summed), rows)


async def take(connection: AsyncConnection, owner: str, used: Mapping[str, Amount]) -> None:
    """Take from the leases of process `owner`, by user, what has been booked."""
    mine = sa.and_(LEASES.c.user_id == sa.bindparam("taker"), LEASES.c.owner == owner, LEASES.c.booked == 0)
    await _take(connection, LEASES, mine, used)


async def _take(
    connection: AsyncConnection, table: sa.Table, whose: sa.ColumnElement[bool], used: Mapping[str, Amount]
) -> None:
    rows = [
        {"taker": taker, "taken_tokens": amount.tokens, "taken_nano": amount.nano}
        for taker, amount in sorted(used.items())
        if amount
    ]
    if not rows:
        return
    await connection.execute(
        sa.update(table)
        .where(whose)
        .values(
            tokens=_down_to_zero(table.c.tokens, sa.bindparam("taken_tokens", type_=sa.BigInteger)),
            nano=_down_to_zero(table.c.nano, sa.bindparam("taken_nano", type_=sa.BigInteger)),
        ),
        rows,
    )


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
    await add(connection, _by_period(booked, now))
    await connection.execute(sa.update(LEASES).where(lost).values(booked=now))
    return booked


async def _take_back(connection: AsyncConnection, *which: sa.ColumnElement[bool]) -> None:
    """Undo `book_lost` for the leases of a process that has turned up."""
    booked = (
        await connection.execute(sa.select(LEASES).where(LEASES.c.booked != 0, *which).order_by(LEASES.c.user_id))
    ).all()
    for row in booked:
        await add(connection, _by_period({row.user_id: Amount(-row.tokens, -row.nano)}, row.booked))
    if booked:
        await connection.execute(sa.update(LEASES).where(LEASES.c.booked != 0, *which).values(booked=0))


def _by_period(amounts: Mapping[str, Amount], at: int) -> dict[tuple[str, str], Amount]:
    return {(user, name): amount for user, amount in amounts.items() for name in periods(at).names}


async def _lock(connection: AsyncConnection, users: Sequence[str]) -> None:
    if users:
        insert = _insert(connection, BALANCES)
        same = insert.on_conflict_do_update(index_elements=["user_id", "period"], set_={"tokens": BALANCES.c.tokens})
        await connection.execute(same, [{"user_id": user, "period": "all", "tokens": 0, "nano": 0} for user in users])


def _down_to_zero(column: sa.Column[Any], taken: sa.BindParameter[int]) -> sa.ColumnElement[int]:
    return sa.case((column > taken, column - taken), else_=0)


def _insert(connection: AsyncConnection, table: sa.Table) -> Any:
    """Both have `on_conflict_do_update`, in classes of their own."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # large, and loaded already where it is used

        return postgresql.insert(table)
    return sqlite.insert(table)
