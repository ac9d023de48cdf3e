"""Files that go with a job, beside its result."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; until now a result was the only one."""
    op.add_column("jobs", sa.Column("files", sa.Text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "files")
