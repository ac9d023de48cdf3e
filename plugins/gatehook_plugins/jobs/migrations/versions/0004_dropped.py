"""What an answer leaves out is told with it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the names of the parameters that were dropped."""
    op.add_column("jobs", sa.Column("dropped", sa.Text))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("jobs", "dropped")
