"""Calls whose answer nobody waits for: they are queued as jobs, made later, and asked about by the job's id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gatehook.model import Call, Target
from gatehook.services.registry import ServiceKey

__all__ = ["JOBS", "JobQueue"]


class JobQueue(Protocol):
    """Keeps jobs and runs them, whatever becomes of the process that took them."""

    async def submit(self, call: Call, targets: Sequence[Target]) -> str:
        """Queue a call (`call.deferred`); when it returns, the job is safe.

        Args:
            call: parsed, its principal known and allowed to make it.
            targets: the deployments that would be tried now, the best first.

        Returns:
            The job's id.

        Raises:
            RateLimited: this user has too much queued, or nothing left to spend.
            Conflict: it has an Idempotency-Key that belongs to another request.
            InvalidRequest: a header of this API's own is wrong. Unavailable: it cannot be kept now.
        """
        ...

    def counts(self) -> Mapping[str, int]:
        """Jobs by status, as they were counted a few seconds ago. Costs no I/O."""
        ...


JOBS: ServiceKey[JobQueue] = ServiceKey("jobs", provider="jobs")
