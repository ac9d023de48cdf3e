"""How far running jobs are: the newest report of each, written down now and then."""

import asyncio
import base64
import logging
import math
from typing import Any, Final

from msgspec import structs

from gatehook import Progress, Unavailable, sniff
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.store import Claimed, Store
from gatehook_plugins.jobs.stored import fit

__all__ = ["Reports", "preview_uri"]

log: Final = logging.getLogger("gatehook.jobs")

_PAUSE: Final = 0.5
"""Seconds between two rounds of writing."""
_LARGEST_PREVIEW: Final = 1 << 18
"""Bytes; larger ones are left out."""


class Reports:
    """Reports of vendors that are not in the database yet."""

    def __init__(self, store: Store, bell: Bell) -> None:
        self._store = store
        self._bell = bell
        self._told: dict[str, tuple[Claimed, Progress]] = {}
        self._news = asyncio.Event()

    def report(self, job: Claimed, progress: Progress) -> None:
        """Take the newest report of a job, in place of one not yet written, whose preview it keeps if it has none."""
        told = self._told.get(job.id)
        if told is not None and told[0].run == job.run and not progress.preview:
            progress = structs.replace(progress, preview=told[1].preview)
        self._told[job.id] = job, progress
        self._news.set()

    def forget(self, job_id: str) -> None:
        """Drop the report of a job that has ended."""
        self._told.pop(job_id, None)

    async def write(self) -> None:
        """Write reports to the database as they come, until this is cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            for job_id in list(self._told):
                if (told := self._told.pop(job_id, None)) is not None:
                    await self._write(*told)
            await asyncio.sleep(_PAUSE)

    async def _write(self, job: Claimed, progress: Progress) -> None:
        preview = progress.preview if len(progress.preview) <= _LARGEST_PREVIEW else b""
        try:
            await self._store.progressed(job, _fraction(progress), _data(progress), preview)
        except Unavailable:
            return  # the next report will do
        except Exception:
            log.exception("%s: how far it is cannot be written down", job.id)
            return
        self._bell.ring(job.id)


def _fraction(progress: Progress) -> float:
    """From 0 to 1, whatever the vendor says."""
    return min(max(progress.fraction, 0.0), 1.0) if math.isfinite(progress.fraction) else 0.0


def _data(progress: Progress) -> dict[str, Any]:
    data: dict[str, Any] = {"message": fit(progress.message)}
    if progress.queue_position is not None:
        data["queue_position"] = progress.queue_position
    return data


def preview_uri(preview: bytes) -> str:
    """A small picture as a data: URI, its kind told from its first bytes."""
    kind = sniff(preview[:16]) or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(preview).decode()}"
