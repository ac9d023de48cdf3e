"""What is kept for calls that are made later."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "reservations",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("nano", sa.BigInteger, nullable=False),
    )
    op.create_index("reservations_user", "reservations", ["user_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("reservations")
