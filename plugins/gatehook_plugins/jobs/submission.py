"""Takes calls that were asked for as jobs, and queues them."""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from gatehook import Call, Egress, InvalidRequest, Target
from gatehook_plugins.jobs.intake import Intake, NewJob
from gatehook_plugins.jobs.settings import JobsSettings
from gatehook_plugins.jobs.stored import stored
from gatehook_plugins.jobs.webhooks import HEADER

__all__ = ["PRIORITY", "Submission"]

PRIORITY: Final = "X-Gatehook-Priority"
IDEMPOTENCY: Final = "Idempotency-Key"
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,5}")
_LONGEST_URL: Final = 2000
_LONGEST_KEY: Final = 255


class Submission:
    """Makes jobs of calls, and queues them."""

    def __init__(self, intake: Intake, egress: Egress, settings: JobsSettings, wake: Callable[[], None]) -> None:
        """`wake` tells this process that there is something to run."""
        self._intake = intake
        self._egress = egress
        self._settings = settings
        self._wake = wake

    async def submit(self, call: Call, targets: Sequence[Target]) -> str:
        """See `JobQueue.submit`."""
        settings, key = self._settings, _idempotency_key(call)
        job = NewJob(
            _new_id(),
            targets[0].vendor,
            stored(call, settings.keep_headers),
            self._priority(call),
            self._webhook(call),
            settings.max_wait,
            key,
            None if key is None else _digest(call),
        )
        job_id = await self._intake.submit(job, call)
        self._wake()
        return job_id

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


def _idempotency_key(call: Call) -> str | None:
    """What the client knows this submission by; None if it does not say."""
    key = call.headers.get(IDEMPOTENCY)
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"{IDEMPOTENCY}: expected 1 to {_LONGEST_KEY} printable ASCII characters", param=IDEMPOTENCY
        )
    return key


def _digest(call: Call) -> str:
    """Of what a job is asked for: the same for the same bytes."""
    return hashlib.sha256(f"{call.operation}\n".encode() + call.body.raw).hexdigest()


def _new_id() -> str:
    """Cannot be guessed, and begins with the time: the newest come last, also in an index."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
