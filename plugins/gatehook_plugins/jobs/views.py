"""A job as its owner sees it."""

from typing import Any

import msgspec

__all__ = ["view"]


def view(job: Any) -> dict[str, Any]:
    """A row of the table `jobs`, without its result; times are in epoch seconds."""
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "model": job.model,
        "user_id": job.user_id,
        "priority": -job.rank,
        "attempts": job.tries,
        "created_at": job.created // 1000,
        "started_at": None if job.started is None else job.started // 1000,
        "finished_at": None if job.finished is None else job.finished // 1000,
        "error": None if job.error is None else msgspec.Raw(job.error.encode()),
        "webhook": job.webhook_state,
        **({} if job.dropped is None else {"dropped_params": msgspec.Raw(job.dropped.encode())}),
    }
