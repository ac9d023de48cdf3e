"""The directory's tables, and what their rows are to everybody else. The revisions under migrations/ make them."""

from typing import Any, Final

import msgspec
from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, MetaData, Row, String, Table, Text

from gatehook import LONGEST_MODEL_NAME, Caps, Change, Key, Limits, User

__all__ = [
    "LONGEST_CONFIG_NAME",
    "METADATA",
    "api_keys",
    "audit",
    "change_of",
    "config",
    "facts",
    "key_of",
    "models",
    "revision",
    "row_of_key",
    "row_of_user",
    "user_of",
    "users",
]

METADATA: Final = MetaData()

LONGEST_CONFIG_NAME: Final = 2 * LONGEST_MODEL_NAME + 28
"""Characters: of "model:" and the key of a deployment, which holds the model's name and the id of its row."""

LIMITS: Final = Limits.__struct_fields__
CAPS: Final = Caps.__struct_fields__


def _sorted_text(length: int) -> String:
    """A text that both databases compare and sort by its bytes, whatever the server's language."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _numbers(*names: str) -> list[Column[int]]:
    """One number each; NULL for no limit."""
    return [Column(name, BigInteger) for name in names]


def _names() -> JSON:
    return JSON(none_as_null=True)


users: Final = Table(
    "users",
    METADATA,
    Column("id", _sorted_text(128), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("models", _names()),
    *_numbers(*LIMITS, *CAPS),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

api_keys: Final = Table(
    "api_keys",
    METADATA,
    Column("id", _sorted_text(64), primary_key=True),
    Column("user_id", _sorted_text(128), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("models", _names()),
    *_numbers(*LIMITS),
    Column("expires", BigInteger),
    Column("created", BigInteger, nullable=False),
    Index("ix_api_keys_digest", "digest", unique=True),
    Index("ix_api_keys_user_id", "user_id"),
)
"""`digest` is that of the whole key, in hex; the key itself is nowhere."""

models: Final = Table(
    "models",
    METADATA,
    Column("id", _sorted_text(LONGEST_MODEL_NAME), primary_key=True),
    Column("settings", JSON, nullable=False),
    Column("api_key", Text),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
"""`settings` is a [[models]] table without its key; `api_key` is encrypted, or a reference such as "env:NAME";
`revision` is the audit's id of the last change."""

config: Final = Table(
    "config",
    METADATA,
    Column("name", _sorted_text(LONGEST_CONFIG_NAME), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
)
"""What is configured while the gateway runs: JSON objects by name, each with the audit's id of its last change."""

audit: Final = Table(
    "audit",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(LONGEST_CONFIG_NAME), nullable=False),
    Column("detail", JSON, nullable=False),
)

revision: Final = Table(
    "revision",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)
"""One row: the audit's newest id. Whoever changes something updates it first, so changes are made one by one."""

facts: Final = Table(
    "facts",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What is known of the database as a whole: of its "secret", a value by which to recognise it ("" at first)."""


def user_of(row: Row[Any]) -> User:
    """A row of `users`."""
    found = row._mapping  # noqa: SLF001  # SQLAlchemy's public name for it
    return User(
        id=found["id"],
        name=found["name"],
        admin=found["admin"],
        disabled=found["disabled"],
        models=_set(found["models"]),
        limits=Limits(*(found[name] for name in LIMITS)),
        caps=Caps(*(found[name] for name in CAPS)),
        created=found["created"],
        updated=found["updated"],
    )


def row_of_user(user: User) -> dict[str, Any]:
    """The row of a user."""
    row = msgspec.structs.asdict(user)
    limits, caps = row.pop("limits"), row.pop("caps")
    return row | msgspec.structs.asdict(limits) | msgspec.structs.asdict(caps) | {"models": _list(user.models)}


def key_of(row: Row[Any]) -> Key:
    """A row of `api_keys`."""
    found = row._mapping  # noqa: SLF001
    return Key(
        id=found["id"],
        user_id=found["user_id"],
        prefix=found["prefix"],
        name=found["name"],
        admin=found["admin"],
        disabled=found["disabled"],
        models=_set(found["models"]),
        limits=Limits(*(found[name] for name in LIMITS)),
        expires=found["expires"],
        created=found["created"],
    )


def row_of_key(key: Key) -> dict[str, Any]:
    """The row of a key, but for its digest."""
    row = msgspec.structs.asdict(key)
    return row | msgspec.structs.asdict(row.pop("limits")) | {"models": _list(key.models)}


def change_of(row: Row[Any]) -> Change:
    """A row of `audit`."""
    return Change(**row._mapping)  # noqa: SLF001


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _list(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
