"""Submissions that are made again give the same job."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add what a submission is known by; where a client gives no key, both are NULL, and as many jobs as it likes."""
    op.add_column("jobs", sa.Column("idempotency_key", sa.String))
    op.add_column("jobs", sa.Column("request_digest", sa.String))
    op.create_index("jobs_idempotency_key", "jobs", ["user_id", "idempotency_key"], unique=True)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("jobs_idempotency_key", "jobs")
    op.drop_column("jobs", "request_digest")
    op.drop_column("jobs", "idempotency_key")
