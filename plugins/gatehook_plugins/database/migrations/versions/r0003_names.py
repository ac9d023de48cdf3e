"""Room for the longest names of models: in their ids, in what is configured of them, and in the audit of that."""

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0003"
down_revision = "0002"


def _sorted_text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Widen the columns."""
    _resize(models=256, config=540, audit=540)


def downgrade() -> None:
    """Narrow them; PostgreSQL refuses where something longer is kept."""
    _resize(models=128, config=200, audit=200)


def _resize(*, models: int, config: int, audit: int) -> None:
    # On SQLite a table is copied for that.
    with op.batch_alter_table("models") as table:
        table.alter_column("id", type_=_sorted_text(models), existing_nullable=False)
    with op.batch_alter_table("config") as table:
        table.alter_column("name", type_=_sorted_text(config), existing_nullable=False)
    with op.batch_alter_table("audit") as table:
        table.alter_column("subject", type_=sa.String(audit), existing_nullable=False)
