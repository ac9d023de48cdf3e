"""The ids of runs at their servers, by which those of a job are found again when the process that began them has died.

Ids are UUIDs, as ComfyUI makes them itself. That of a job's run is derived: from the job and the number of its run,
which can be read off it, and from what is run. So the next run of the job knows what an earlier one has begun, without
anything having been written down.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence

from gatehook import Call, Target

__all__ = ["Trace", "trace_of"]

_STATE = "vendor_comfyui"
_RUNS_BACK, _TRIES = 8, 4
"""How many earlier runs of a job are looked for, and how often each may have tried a deployment."""


class Trace:
    """The ids of one call's runs. For a call that is no job they are random, and no earlier runs are looked for."""

    def __init__(self, job: str, run: int) -> None:
        """`job` is "" for a call that is none; `run` counts from 1. With 0, all runs of the job are earlier ones."""
        self._job = job
        self._run = run
        self._tries = Counter[tuple[str, int]]()
        self._digits = hashlib.sha256(job.encode()).hexdigest()[:12]
        self.is_again = bool(job) and run > 1
        """Whether earlier runs may have left something at servers."""
        self.is_tidy = False
        """Whether that has been tidied up."""

    def fresh(self, target: Target, part: int) -> str:
        """An id for one more try of a part of the call (counted from 0) at a deployment."""
        if not self._job:
            return str(uuid.uuid4())
        self._tries[target.key, part] += 1
        return self._name(self._run, target, part, self._tries[target.key, part])

    def earlier(self, target: Target, part: int) -> Sequence[str]:
        """The ids that the same part may have had in earlier runs, the newest first."""
        if not self._job:
            return ()
        runs = range(self._run - 1, max(self._run - 1 - _RUNS_BACK, 0), -1)
        return [self._name(run, target, part, count) for run in runs for count in range(_TRIES, 0, -1)]

    def is_left(self, name: str) -> bool:
        """Whether this is the id of an earlier run of the job."""
        return bool(self._job) and name.startswith(self._head) and not name.startswith(self._begin(self._run))

    @property
    def _head(self) -> str:
        return f"{self._digits[:8]}-{self._digits[8:]}-4"

    def _begin(self, run: int) -> str:
        return f"{self._head}{run & 0xFFF:03x}-"

    def _name(self, run: int, target: Target, part: int, count: int) -> str:
        what = f"{self._job}/{run}/{target.key}/{part}/{count}"
        tail = hashlib.sha256(what.encode()).hexdigest()
        return f"{self._begin(run)}a{tail[:3]}-{tail[3:15]}"


def trace_of(call: Call) -> Trace:
    """The trace of a call, which is kept in its state."""
    trace = call.state.get(_STATE)
    if trace is None:
        job, _, run = call.id.rpartition(".")
        is_job = call.reservation and job == call.reservation and run.isascii() and run.isdecimal()
        trace = call.state[_STATE] = Trace(job, int(run)) if is_job else Trace("", 0)
    made: Trace = trace
    return made
