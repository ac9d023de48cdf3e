"""Jobs, what they are asked and answer, and what has happened to them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _id() -> sa.String:
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("vendor", sa.String, nullable=False),
        sa.Column("call", sa.Text, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("lease", sa.BigInteger),
        sa.Column("cancelling", sa.Boolean, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger),
        sa.Column("finished", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("file", sa.String),
        sa.Column("webhook", sa.Text),
        sa.Column("webhook_due", sa.BigInteger),
        sa.Column("webhook_tries", sa.Integer, nullable=False),
        sa.Column("webhook_state", sa.String),
    )
    op.create_index("jobs_queue", "jobs", ["status", "rank", "id"])
    op.create_index("jobs_of_user", "jobs", ["user_id", "id"])
    op.create_index("jobs_open", "jobs", ["user_id", "status", "model"])
    op.create_index("jobs_webhook_due", "jobs", ["webhook_due"])
    op.create_index("jobs_finished", "jobs", ["finished"])
    op.create_table(
        "job_bodies",
        sa.Column("job_id", _id(), primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", _id(), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("preview", sa.LargeBinary),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("job_events")
    op.drop_table("job_bodies")
    op.drop_table("jobs")
