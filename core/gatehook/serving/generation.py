"""The workers of one set of settings: which are alive, which have to be started, and how they end.

Each worker has a line to the parent, a socket: on it the worker says once that it serves, or why it cannot, and is told
when to stop. When one of the two dies, the other sees the end of the line.
"""

import contextlib
import json
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gatehook.app import Gateway
from gatehook.serving.accepting import SharedSocket

__all__ = ["CUT", "DRAIN", "YIELD", "Generation", "Worker"]

log = logging.getLogger("gatehook")

DRAIN: Final = b"d"
"""Accept nothing more, close what is idle, let running requests end."""
YIELD: Final = b"y"
"""Other workers have taken over: accept nothing more, and let clients move there without noticing."""
CUT: Final = b"c"
"""End at once."""

_YOUNG: Final = 10.0
"""Seconds; if a worker dies younger, and the next one too, successors wait, each time longer."""
_LONGEST_WAIT: Final = 10.0
"""Seconds that a successor waits, at most."""
_PATIENCE: Final = 20.0
"""Seconds a worker may take to end, beyond the requests' grace: settling, and closing the plugins."""


@dataclass(eq=False)
class Worker:
    """A process that serves, as the parent sees it."""

    index: int
    pid: int
    line: socket.socket
    born: float
    models: int | None = None
    """How many models it can call, once it has said that it serves; None before."""
    faults: list[str] = field(default_factory=list)
    """Why it cannot start, if it has said so."""
    silent: bool = False
    """Whether its line has ended."""
    _heard: bytes = b""

    def hear(self) -> None:
        """Read what it says."""
        said = b""
        with contextlib.suppress(OSError):
            said = self.line.recv(65536)
        self.silent = not said
        *reports, self._heard = (self._heard + said).split(b"\n")
        for report in map(json.loads, reports):
            self.models, self.faults = report["models"], report["faults"]

    def tell(self, word: bytes) -> None:
        """Send it `DRAIN`, `YIELD` or `CUT`."""
        with contextlib.suppress(OSError):  # it is gone
            self.line.send(word)


class Generation:
    """The workers of one gateway on one socket. A new one can begin on the same socket while an old one drains."""

    def __init__(self, gateway: Gateway, shared: SharedSocket, indexes: Sequence[int]) -> None:
        """`indexes` number its workers; no other living worker has one of them."""
        self.gateway = gateway
        self.shared = shared
        self.indexes = tuple(indexes)
        self.workers: dict[int, Worker] = {}
        """Those that are alive, by index."""
        self.faults: list[str] = []
        """Why it could not start."""
        self.established = False
        """Whether all workers have served at the same time."""
        self.models = 0
        """How many models they could call then."""
        self.end = math.inf
        """When workers that are left are killed (time.monotonic); infinite until it is asked to stop."""
        self._first_served = False
        self._deaths: dict[int, int] = {}
        """How many workers in a row died young, by index."""
        self._due: dict[int, float] = {}
        """When a worker's successor may start, by index."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.end < math.inf

    @property
    def ended(self) -> bool:
        """Whether it was asked to stop, and has."""
        return self.stopping and not self.workers

    def missing(self, now: float) -> Sequence[int]:
        """The indexes of workers that should be started now.

        The first one starts alone, so that what is made once (tables of a database) is there when the others look.
        """
        return [index for index, due in self._wanted() if due <= now]

    def next_event(self) -> float:
        """When something has to be done even if no event comes (time.monotonic)."""
        return self.end if self.stopping else min((due for _, due in self._wanted()), default=math.inf)

    def _wanted(self) -> Iterator[tuple[int, float]]:
        if not self.stopping:
            for index in self.indexes if self._first_served else self.indexes[:1]:
                if index not in self.workers:
                    yield index, self._due.get(index, 0.0)

    def listened(self) -> None:
        """Update the state after workers may have said something."""
        serving = [worker for worker in self.workers.values() if worker.models is not None]
        self._first_served = self._first_served or bool(serving)
        if len(serving) == len(self.indexes) and not self.established:
            self.established = True
            self.models = max(worker.models or 0 for worker in serving)

    def died(self, worker: Worker, how: str, now: float) -> None:
        """Note that a worker has ended."""
        del self.workers[worker.index]
        worker.line.close()
        self.shared.loads.leave(worker.index)
        for fault in worker.faults if self.established else ():
            log.error("worker %d cannot start: %s", worker.index, fault)
        self.lost(worker.index, f"(process {worker.pid}) {how}", now, age=now - worker.born, faults=worker.faults)

    def lost(self, index: int, how: str, now: float, *, age: float = 0.0, faults: Sequence[str] = ()) -> None:
        """Plan a successor for a worker; a generation that was never complete ends instead."""
        if not self.established:
            self.faults += faults
            if not self.stopping:
                self.faults += [] if faults else [f"worker {index} {how} before it served"]
                self.stop(CUT, now)
        elif self.stopping:
            log.log(logging.INFO if how.endswith("status 0") else logging.WARNING, "worker %d %s", index, how)
        else:
            wait = self._delay(index, age)
            self._due[index] = now + wait
            log.error("worker %d %s; another takes its place%s", index, how, f" in {wait:g} s" if wait else "")

    def _delay(self, index: int, age: float) -> float:
        """Seconds until a successor may start: 0, unless several in a row have died young."""
        deaths = self._deaths.get(index, 0) if age < _YOUNG else 0
        self._deaths[index] = deaths + 1
        return min(0.1 * 2**deaths, _LONGEST_WAIT) if deaths else 0.0

    def stop(self, word: bytes, now: float) -> None:
        """Have all workers end, by `DRAIN`, `YIELD` or `CUT`."""
        grace = 0.0 if word == CUT else self.gateway.settings.server.shutdown_grace
        self.end = min(self.end, now + grace + _PATIENCE)
        for worker in self.workers.values():
            worker.tell(word)

    def kill(self, now: float) -> None:
        """Kill the workers that are left."""
        self.end = now + _PATIENCE
        for worker in self.workers.values():
            os.kill(worker.pid, signal.SIGKILL)
