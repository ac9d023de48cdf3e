"""The table `usage`: one row per request, and one per correction. Never changed, only added to."""

import functools
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from msgspec.structs import astuple
from sqlalchemy import BigInteger, Column, Integer, MetaData, RowMapping, String, Table

from gatehook import UsageRow

__all__ = ["book", "from_record", "insertions", "usage"]

_Id = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER key counts up by itself there
_METADATA = MetaData()

book = Table("usage_book", _METADATA, Column("name", String, primary_key=True))
"""One row: a random name, by which journals know which database they belong to."""

usage = Table(
    "usage",
    _METADATA,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("request_id", String, nullable=False, unique=True),
    Column("ended_at", BigInteger, key="at", nullable=False),
    Column("user_id", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("operation", String, nullable=False),
    Column("surface", String, nullable=False),
    Column("model", String, nullable=False),
    Column("deployment", String, nullable=False),
    Column("vendor", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("code", String, nullable=False),
    Column("provenance", String, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("input_cost", BigInteger),
    Column("output_cost", BigInteger),
    Column("latency", BigInteger, nullable=False),
    Column("first_token", BigInteger),
    Column("attempts", Integer, nullable=False),
)
"""The table as the migrations make it; the keys of its columns are the fields of `UsageRow`."""

_FIELDS = UsageRow.__struct_fields__
_TOGETHER: Final = (32, 8, 1)
"""Rows in one statement, the most first. After each statement SQLite's thread has to get the GIL again, which the event
loop wants, too. More rows would pass the 999 parameters that any SQLite takes."""


def insertions(paramstyle: str, rows: Sequence[UsageRow]) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Statements that insert these rows in their order, each with the parameters for every execution of it.

    Handed to the driver as they are: SQLAlchemy would spend more on each row's parameters than the database on the row.
    """
    begin = 0
    for together in _TOGETHER:
        end = len(rows) - (len(rows) - begin) % together
        if begin < end:
            groups = (rows[at : at + together] for at in range(begin, end, together))
            yield _insertion(paramstyle, together), [tuple(chain.from_iterable(map(astuple, one))) for one in groups]
        begin = end


@functools.cache
def _insertion(paramstyle: str, rows: int) -> str:
    """The insert of so many rows, whose parameters are the fields of `UsageRow` in their order."""
    size, numbered = len(_FIELDS), paramstyle == "numeric_dollar"
    marks = [f"${number}" if numbered else "?" for number in range(1, rows * size + 1)]
    values = "), (".join(", ".join(marks[at : at + size]) for at in range(0, rows * size, size))
    columns = ", ".join(usage.c[name].name for name in _FIELDS)
    return f"INSERT INTO usage ({columns}) VALUES ({values})"  # noqa: S608  # names of our own


def from_record(record: RowMapping) -> UsageRow:
    """The row, from what a select of the table's columns gave."""
    return UsageRow(*(record[name] for name in _FIELDS))
