"""The statements that write the life of every job, built once: to build one takes longer than to execute it.

Parameters whose names begin with "of_" tell which job is meant; those that are set have the names of their columns.
"""

from typing import Any, Final

import sqlalchemy as sa

from gatehook_plugins.jobs.due import LONGEST_BACKOFF, LONGEST_WEBHOOK_BACKOFF, is_due
from gatehook_plugins.jobs.tables import bodies, events, jobs

__all__ = [
    "ADD_BODY", "ADD_EVENT", "ADD_JOB", "ALIKE_LATER", "CANCELLING", "DOOMED", "DROP_PREVIEWS", "DROP_REQUEST",
    "END_DOOMED", "END_HELD", "END_OVERDUE", "END_QUEUED", "END_SILENT", "HELD", "LOOK", "OPEN", "QUEUE", "QUEUE_HELD",
    "QUEUE_SILENT", "QUEUE_WITHOUT", "REQUEST", "RUNNING", "SAME_KEY", "SILENT", "STATUS", "TAKE", "WAITING",
]  # fmt: skip


def _is(column: "sa.Column[Any]") -> sa.ColumnElement[bool]:
    return column == sa.bindparam(f"of_{column.name}")


_HELD: Final = (_is(jobs.c.id), _is(jobs.c.runs), jobs.c.status == "running")
"""Conditions: the job is still held by this run."""
_QUEUED: Final = (_is(jobs.c.id), jobs.c.status == "queued")
_SILENT: Final = (*_HELD, jobs.c.lease < sa.bindparam("of_now"))
_OVERDUE: Final = (*_QUEUED, jobs.c.deadline < sa.bindparam("of_now"))


def _move(*which: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """A change of one job, which has one event more then; gives its row."""
    return sa.update(jobs).where(*which).values(**values, events=jobs.c.events + 1).returning(jobs)


def _end(*which: sa.ColumnElement[bool]) -> sa.Update:
    """The end of one job, at `ended`: from then on its webhook is due."""
    due = sa.case((jobs.c.webhook.is_not(None), sa.bindparam("ended", type_=sa.BigInteger)), else_=None)
    return _move(*which, webhook_due=due)


# --- submission -------------------------------------------------------------------------------------------------------

ADD_JOB: Final = sa.insert(jobs)
ADD_BODY: Final = sa.insert(bodies)
ADD_EVENT: Final = sa.insert(events)
SAME_KEY: Final = sa.select(jobs.c.id, jobs.c.request_digest).where(_is(jobs.c.user_id), _is(jobs.c.idempotency_key))
OPEN: Final = (
    sa.select(sa.func.count())
    .select_from(jobs)
    .where(_is(jobs.c.user_id), sa.or_(jobs.c.status == "queued", jobs.c.status == "running"))  # a list costs more
)

# --- running ----------------------------------------------------------------------------------------------------------

RUNNING: Final = (
    sa.select(jobs.c.user_id, jobs.c.vendor, sa.func.count())
    .where(jobs.c.status == "running")
    .group_by(jobs.c.user_id, jobs.c.vendor)
)
QUEUE: Final = (
    sa.select(jobs.c.id, jobs.c.user_id, jobs.c.vendor)
    .where(jobs.c.status == "queued", is_due(jobs.c.due, LONGEST_BACKOFF))
    .order_by(jobs.c.rank, jobs.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
QUEUE_WITHOUT: Final = QUEUE.where(
    jobs.c.id.not_in(sa.bindparam("chosen", expanding=True)),
    jobs.c.user_id.not_in(sa.bindparam("full_users", expanding=True)),
    jobs.c.vendor.not_in(sa.bindparam("full_vendors", expanding=True)),
)
"""As `QUEUE`, without jobs that are chosen already or may not run; if there are none, that one is quicker to build."""
TAKE: Final = _move(
    _is(jobs.c.id),
    runs=jobs.c.runs + 1,
    tries=jobs.c.tries + 1,
    started=sa.func.coalesce(jobs.c.started, sa.bindparam("begun", type_=sa.BigInteger)),
)
REQUEST: Final = sa.select(bodies.c.body).where(_is(bodies.c.job_id), bodies.c.kind == "request")
WAITING: Final = sa.select(jobs.c.id).where(jobs.c.status == "queued", is_due(jobs.c.due, LONGEST_BACKOFF)).limit(1)
LOOK: Final = sa.select(
    WAITING.exists().label("waiting"),
    sa.exists().where(is_due(jobs.c.webhook_due, LONGEST_WEBHOOK_BACKOFF)).label("untold"),
)
"""Whether there is anything to do: in one statement, as every process asks again and again."""
DOOMED: Final = sa.select(jobs.c.id).where(jobs.c.status == "running", _is(jobs.c.owner), jobs.c.cancelling)
HELD: Final = _move(*_HELD)
QUEUE_HELD: Final = _move(*_HELD, tries=jobs.c.tries - sa.bindparam("uncounted", type_=sa.Integer))
ALIKE_LATER: Final = sa.update(jobs).where(
    jobs.c.id.in_(
        sa.select(jobs.c.id)
        .where(_is(jobs.c.user_id), _is(jobs.c.model), jobs.c.status == "queued", jobs.c.due < sa.bindparam("of_later"))
        .with_for_update(skip_locked=True)
    )
)

# --- the end ----------------------------------------------------------------------------------------------------------

END_HELD: Final = _end(*_HELD)
END_DOOMED: Final = _end(*_HELD, jobs.c.cancelling)
END_QUEUED: Final = _end(*_QUEUED)
END_SILENT: Final = _end(*_SILENT)
END_OVERDUE: Final = _end(*_OVERDUE)
QUEUE_SILENT: Final = _move(*_SILENT)
SILENT: Final = sa.select(jobs).where(*_SILENT).with_for_update()
STATUS: Final = sa.select(jobs.c.status).where(_is(jobs.c.id)).with_for_update()
CANCELLING: Final = sa.update(jobs).where(_is(jobs.c.id)).values(cancelling=True)
DROP_REQUEST: Final = sa.delete(bodies).where(_is(bodies.c.job_id), bodies.c.kind == "request")
DROP_PREVIEWS: Final = (
    sa.update(events)
    .where(_is(events.c.job_id), events.c.number < sa.bindparam("of_before"), events.c.preview.is_not(None))
    .values(preview=None)
)
