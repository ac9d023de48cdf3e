"""One run of a job: the call made, and what its end means for the job."""

import random
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from gatehook import Call, Completion, Directory, GatewayError, Progress, RateLimited, Retry
from gatehook_plugins.jobs.due import LONGEST_BACKOFF
from gatehook_plugins.jobs.store import Claimed
from gatehook_plugins.jobs.stored import read, revived

__all__ = ["Calls", "Ending", "Runner"]

_LONGEST_WAIT: Final = 300.0
_SHORTEST_WAIT: Final = 0.05


class Calls(Protocol):
    """What makes calls: the gateway."""

    async def run(self, call: Call) -> Completion:
        """Make a plain call.

        Raises:
            GatewayError: what its client is to be told.
        """
        ...


class Ending(Struct, frozen=True):
    """How a run ended, and what is to become of its job.

    Some kinds queue it again: `again` is another try, in `delay` seconds; `later`, a limit of the gateway's own let no
    vendor be called, so that this was no try; `interrupted`, the gateway stopped.
    """

    kind: Literal["succeeded", "failed", "cancelled", "again", "later", "interrupted"]
    error: GatewayError | None = None
    delay: float = 0.0
    body: bytes = b""
    files: Sequence[str] = ()
    """Ids of the stored files that `body` names."""
    dropped: Sequence[str] = ()
    """Names of parameters that had no place at the vendor."""


class Runner:
    """Runs jobs."""

    def __init__(
        self, calls: Calls, directory: Directory | None, max_attempts: int, backoff: float, retention: float
    ) -> None:
        """`directory` knows users; `backoff` is seconds before the second try, `retention` those that answers stay."""
        self._calls = calls
        self._directory = directory
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._retention = retention

    async def run(self, job: Claimed, progress: Callable[[Progress], None]) -> Ending:
        """Make the call of a job. Cancelled, it ends the call as when a client leaves."""
        attempts = 0
        try:
            kept = read(job.call)
            call = revived(kept, job.body, await kept.caller.principal(self._directory), job.id, job.run)
            call.progress, call.keep_files = progress, self._retention
            try:
                body = (await self._calls.run(call)).raw
                return Ending("succeeded", body=body, files=call.files, dropped=call.dropped)
            finally:
                attempts = call.attempts
        except GatewayError as error:
            return self._after(error, job.tries, attempts)

    def _after(self, error: GatewayError, tries: int, attempts: int) -> Ending:
        """What an error means; `attempts` is how often a vendor was called."""
        if isinstance(error, RateLimited) and not attempts:
            if error.retry_after is None or error.final:
                return Ending("failed", error)
            return Ending("later", error, min(max(error.retry_after, _SHORTEST_WAIT), _LONGEST_WAIT))
        may_pass = error.retry is not Retry.NEVER and (error.status >= 500 or error.status in (408, 429))
        if not may_pass or tries >= self._max_attempts:
            return Ending("failed", error)
        delay = min(self._backoff * 2 ** (tries - 1), LONGEST_BACKOFF)
        delay *= random.uniform(0.5, 1)  # noqa: S311  # so that jobs that failed together do not come back together
        return Ending("again", error, max(delay, min(error.retry_after or 0.0, LONGEST_BACKOFF)))
