"""One row per request."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    book = op.create_table("usage_book", sa.Column("name", sa.String, primary_key=True))
    op.bulk_insert(book, [{"name": token_hex(16)}])
    op.create_table(
        "usage",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String, nullable=False, unique=True),
        sa.Column("ended_at", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("operation", sa.String, nullable=False),
        sa.Column("surface", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("deployment", sa.String, nullable=False),
        sa.Column("vendor", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("http_status", sa.Integer, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("provenance", sa.String, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_cost", sa.BigInteger),
        sa.Column("output_cost", sa.BigInteger),
        sa.Column("latency", sa.BigInteger, nullable=False),
        sa.Column("first_token", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    op.create_index("usage_ended_at", "usage", ["ended_at"])
    op.create_index("usage_user_ended_at", "usage", ["user_id", "ended_at"])


def downgrade() -> None:
    """Drop them, and all that was recorded."""
    op.drop_table("usage")
    op.drop_table("usage_book")
