"""The tables of jobs. The revisions under migrations/ make them. Times are epoch milliseconds."""

from typing import Final, Literal

import sqlalchemy as sa

__all__ = ["ENDED", "STATUSES", "Status", "bodies", "events", "jobs"]

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

STATUSES: Final[tuple[Status, ...]] = ("queued", "running", "succeeded", "failed", "cancelled")
ENDED: Final[tuple[Status, ...]] = ("succeeded", "failed", "cancelled")

_METADATA: Final = sa.MetaData()


def _id() -> sa.String:
    """Compared by its bytes, whatever the server's language: ids begin with the time."""
    return sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


jobs: Final = sa.Table(
    "jobs",
    _METADATA,
    sa.Column("id", _id(), primary_key=True),
    sa.Column("user_id", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("vendor", sa.String, nullable=False),  # of the deployment that would have been tried first
    sa.Column("call", sa.Text, nullable=False),  # JSON: a `StoredCall`
    sa.Column("status", sa.String, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),  # the priority, negated: what is small comes first
    sa.Column("due", sa.BigInteger, nullable=False),  # a queued job is not run before
    sa.Column("deadline", sa.BigInteger, nullable=False),  # nor begun after
    sa.Column("tries", sa.Integer, nullable=False),  # that count against `max_attempts`
    sa.Column("runs", sa.Integer, nullable=False),  # all of them: who holds the latest may write
    sa.Column("owner", sa.String),
    sa.Column("lease", sa.BigInteger),  # until when the owner is taken to live
    sa.Column("cancelling", sa.Boolean, nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("events", sa.Integer, nullable=False),  # the number of the last
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger),
    sa.Column("finished", sa.BigInteger),
    sa.Column("error", sa.Text),  # JSON: OpenAI's error object
    sa.Column("file", sa.String),  # of a result that is too large for a row
    sa.Column("files", sa.Text),  # JSON: the ids of all that go with it, such as pictures that its result names
    sa.Column("dropped", sa.Text),  # JSON: the names of parameters that had no place at the vendor
    sa.Column("webhook", sa.Text),
    sa.Column("webhook_due", sa.BigInteger),  # NULL: nothing is to be delivered, or no more
    sa.Column("webhook_tries", sa.Integer, nullable=False),
    sa.Column("webhook_state", sa.String),  # pending, delivered, failed
    sa.Column("idempotency_key", sa.String),  # as its client said; only one job of a user has it
    sa.Column("request_digest", sa.String),  # with such a key: of what was asked for
)

bodies: Final = sa.Table(
    "job_bodies",
    _METADATA,
    sa.Column("job_id", _id(), primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),  # request, result
    sa.Column("body", sa.LargeBinary, nullable=False),
)
"""Apart from the jobs, whose rows change with every step: large rows would be written anew each time."""

events: Final = sa.Table(
    "job_events",
    _METADATA,
    sa.Column("job_id", _id(), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("preview", sa.LargeBinary),  # kept of the newest only
)
