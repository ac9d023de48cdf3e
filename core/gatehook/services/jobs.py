"""Jobs: calls whose clients do not wait for the answer, queued to be made later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gatehook.model import Call, Target
from gatehook.services.registry import ServiceKey

__all__ = ["JOBS", "JobQueue"]


class JobQueue(Protocol):
    """Keeps jobs and runs them, even if the process that accepted them dies."""

    async def submit(self, call: Call, targets: Sequence[Target]) -> str:
        """Queue a call (`call.deferred`); when this returns, the job is durable.

        Args:
            call: parsed, its principal known and allowed to make it.
            targets: the deployments that would be tried now, the best first.

        Returns:
            The job's id.

        Raises:
            RateLimited: this user has too many jobs queued, or a budget does not allow it.
            Conflict: its Idempotency-Key belongs to another request.
            InvalidRequest: a header that is for jobs is wrong. Unavailable: it cannot be stored now.
        """
        ...

    def counts(self) -> Mapping[str, int]:
        """Jobs by status, as they were counted a few seconds ago. Costs no I/O."""
        ...


JOBS: ServiceKey[JobQueue] = ServiceKey("jobs", provider="jobs")
