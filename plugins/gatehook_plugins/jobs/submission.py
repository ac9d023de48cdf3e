"""Takes calls that were asked for as jobs, and queues them."""

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from gatehook import Call, Egress, InvalidRequest, Target
from gatehook_plugins.jobs.settings import JobsSettings
from gatehook_plugins.jobs.store import NewJob, Store
from gatehook_plugins.jobs.stored import stored
from gatehook_plugins.jobs.webhooks import HEADER

__all__ = ["PRIORITY", "Submission"]

PRIORITY: Final = "X-Gatehook-Priority"
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,5}")
_LONGEST_URL: Final = 2000


class Submission:
    """The way into the queue."""

    def __init__(self, store: Store, egress: Egress, settings: JobsSettings, wake: Callable[[], None]) -> None:
        """`wake` tells this process that there is something to run."""
        self._store = store
        self._egress = egress
        self._settings = settings
        self._wake = wake

    async def submit(self, call: Call, targets: Sequence[Target]) -> str:
        """See `JobQueue.submit`."""
        settings = self._settings
        job = NewJob(
            _new_id(),
            targets[0].vendor,
            stored(call, settings.keep_headers),
            self._priority(call),
            self._webhook(call),
            settings.max_wait,
        )
        await self._store.submit(job, call, settings.max_queued)
        self._wake()
        return job.id

    def _priority(self, call: Call) -> int:
        """As the request says; 0 if it does not."""
        text, most = call.headers.get(PRIORITY, "0").strip(), self._settings.max_priority
        if not _NUMBER.fullmatch(text) or abs(int(text)) > most:
            raise InvalidRequest(f"{PRIORITY}: expected a whole number from {-most} to {most}", param=PRIORITY)
        return int(text)

    def _webhook(self, call: Call) -> str | None:
        """Whom to tell when the job has ended."""
        url = call.headers.get(HEADER, "").strip()
        if not url:
            return None
        if not self._settings.webhook_secret.get_secret_value():
            raise InvalidRequest(
                f"{HEADER}: this gateway sends no webhooks; set [plugins.jobs] webhook_secret", param=HEADER
            )
        if len(url) > _LONGEST_URL or not (url.isascii() and url.isprintable()):
            raise InvalidRequest(f"{HEADER}: expected a URL of at most {_LONGEST_URL} characters", param=HEADER)
        self._egress.check(url, param=HEADER)
        return url


def _new_id() -> str:
    """Cannot be guessed, and begins with the time: the newest come last, also in an index."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
