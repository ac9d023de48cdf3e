"""Wakes those in this process who wait for something to happen to a job."""

import asyncio
import contextlib
from collections.abc import Iterator

__all__ = ["Bell"]


class Bell:
    """Rings for one job at a time; one bell serves all jobs."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def ring(self, job_id: str) -> None:
        """Something has happened to a job."""
        for event in self._waiting.get(job_id, ()):
            event.set()

    @contextlib.contextmanager
    def heard(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something happens to a job."""
        event = asyncio.Event()
        waiting = self._waiting.setdefault(job_id, set())
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting and self._waiting.get(job_id) is waiting:
                del self._waiting[job_id]
