"""Tool calls that wait for somebody's decision."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "tool_sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("decided", sa.BigInteger, nullable=False),
        sa.Column("calls", sa.LargeBinary, nullable=False),
        sa.Column("kept", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.create_index("tool_sessions_waiting", "tool_sessions", ["status", "user_id", "created"])
    op.create_index("tool_sessions_expiring", "tool_sessions", ["status", "expires"])


def downgrade() -> None:
    """Drop it. What was decided stays in the audit."""
    op.drop_table("tool_sessions")
