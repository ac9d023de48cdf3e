"""The table `usage`: one row per request, and one per correction. Never changed, only added to."""

import functools

from sqlalchemy import BigInteger, Column, Integer, MetaData, RowMapping, String, Table

from gatehook import UsageRow

__all__ = ["book", "from_record", "insertion", "usage"]

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
"""As the migrations leave it; the keys of its columns are the fields of `UsageRow`."""

_FIELDS = UsageRow.__struct_fields__


@functools.cache
def insertion(paramstyle: str) -> str:
    """The insert of a row, whose parameters are the fields of `UsageRow` in their order, as a driver takes it.

    Handed to the driver as it is: SQLAlchemy would spend more on each row's parameters than the database on the row.
    """
    marks = [f"${number}" if paramstyle == "numeric_dollar" else "?" for number in range(1, len(_FIELDS) + 1)]
    columns = ", ".join(usage.c[name].name for name in _FIELDS)
    return f"INSERT INTO usage ({columns}) VALUES ({', '.join(marks)})"  # noqa: S608  # names of our own


def from_record(record: RowMapping) -> UsageRow:
    """The row, from what a select of the table's columns gave."""
    return UsageRow(*(record[name] for name in _FIELDS))
