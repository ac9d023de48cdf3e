"""What is configured while the gateway runs; and the revision of each model, so that editors notice each other."""

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table, and add the column: 0 for models that were made before."""
    op.create_table(
        "config",
        sa.Column("name", sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql"), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
    )
    op.add_column("models", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop both."""
    with op.batch_alter_table("models") as models:
        models.drop_column("revision")
    op.drop_table("config")
