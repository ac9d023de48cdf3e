"""Several processes on one socket: a parent that serves nothing itself forks workers, and replaces those that die.

Each worker has a line to the parent: it tells once that it serves, or why it cannot, and is told when to stop; and each
of the two sees by the line's end that the other is gone. Signals reach a worker in other ways, too (Ctrl-C, or a
service manager, signals every process), so the line alone says whether to drain or to end at once. The parent has no
loop and no thread, and never opens what it built: it can fork at any time.
"""

import asyncio
import contextlib
import gc
import json
import logging
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from gatehook.accepting import SharedSocket
from gatehook.app import Gateway
from gatehook.errors import StartupError
from gatehook.listening import address, listen, remove_file
from gatehook.server import BACKLOG, Ready, Stop, loop_factory, serve_until
from gatehook.shared import shared_folder

__all__ = ["Generation", "Supervisor", "Worker", "supervise"]

log = logging.getLogger("gatehook")

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_DRAIN: Final = b"d"
_CUT: Final = b"c"
_YOUNG: Final = 10.0
"""Seconds; a worker that dies younger has its successor wait, each time longer."""
_LONGEST_WAIT: Final = 10.0
_PATIENCE: Final = 20.0
"""Seconds a worker may take to end, beyond the requests' grace: settling, and closing the plugins."""


def supervise(gateway: Gateway, ready: Ready) -> None:
    """Serve with `server.workers` processes until SIGTERM or SIGINT; a second signal cuts requests off, a third kills.

    Raises:
        StartupError: the address cannot be listened on, or a worker cannot start.
    """
    settings = gateway.settings.server
    sock = listen(settings)
    try:
        sock.listen(BACKLOG)
        with shared_folder() as gateway.shared:
            loop_factory()  # imported once, for all
            gc.collect()
            gc.freeze()  # collecting writes to what it looks at: memory that the workers would no longer share
            Supervisor(Generation(gateway, SharedSocket(sock))).run(ready)
    finally:
        if sock.fileno() >= 0:  # it ends before it served
            remove_file(settings)
            sock.close()


@dataclass(eq=False)
class Worker:
    """A process that serves, as the parent sees it."""

    index: int
    pid: int
    line: socket.socket
    born: float
    models: int | None = None
    """How many models it can call; None until it serves."""
    faults: list[str] = field(default_factory=list)
    """Why it cannot start."""
    silent: bool = False
    """Whether it will say no more."""
    _heard: bytes = b""

    def hear(self) -> None:
        """Take in what it says."""
        said = b""
        with contextlib.suppress(OSError):
            said = self.line.recv(65536)
        self.silent = not said
        *reports, self._heard = (self._heard + said).split(b"\n")
        for report in map(json.loads, reports):
            self.models, self.faults = report["models"], report["faults"]

    def tell(self, word: bytes) -> None:
        """Say one word to it."""
        with contextlib.suppress(OSError):  # it is gone
            self.line.send(word)


class Generation:
    """The workers of one gateway on one socket. A new one can begin on the same socket while an old one drains."""

    def __init__(self, gateway: Gateway, shared: SharedSocket) -> None:
        self.gateway = gateway
        self.shared = shared
        self.size = gateway.settings.server.workers
        self.workers: dict[int, Worker] = {}
        """Those that live, by index."""
        self.faults: list[str] = []
        """Why it could not start."""
        self.established = False
        """Whether there was a moment when all served."""
        self.models = 0
        """How many models they could call then."""
        self.end = math.inf
        """When what is left is killed; infinite while nobody has asked it to stop."""
        self._first_served = False
        self._deaths: dict[int, int] = {}
        """How often in a row a worker died young, by index."""
        self._due: dict[int, float] = {}
        """When a worker's successor may begin, by index."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self.end < math.inf

    def missing(self, now: float) -> Sequence[int]:
        """The workers that should be begun.

        The first begins alone: what is made once, a database's tables say, is there when the others look.
        """
        return [index for index, due in self._wanted() if due <= now]

    def next_event(self) -> float:
        """When something has to be done even if nothing happens."""
        return self.end if self.stopping else min((due for _, due in self._wanted()), default=math.inf)

    def _wanted(self) -> Iterator[tuple[int, float]]:
        if not self.stopping:
            for index in range(self.size if self._first_served else 1):
                if index not in self.workers:
                    yield index, self._due.get(index, 0.0)

    def listened(self) -> None:
        """Some worker may have said something."""
        serving = [worker for worker in self.workers.values() if worker.models is not None]
        self._first_served = self._first_served or bool(serving)
        if len(serving) == self.size and not self.established:
            self.established = True
            self.models = max(worker.models or 0 for worker in serving)

    def died(self, worker: Worker, how: str, now: float) -> None:
        """A worker is gone."""
        del self.workers[worker.index]
        worker.line.close()
        self.shared.loads.leave(worker.index)
        for fault in worker.faults if self.established else ():
            log.error("worker %d cannot start: %s", worker.index, fault)
        self.lost(worker.index, f"(process {worker.pid}) {how}", now, age=now - worker.born, faults=worker.faults)

    def lost(self, index: int, how: str, now: float, *, age: float = 0.0, faults: Sequence[str] = ()) -> None:
        """Have another take the place of a worker; a generation that was never complete ends instead."""
        if not self.established:
            self.faults += faults
            if not self.stopping:
                self.faults += [] if faults else [f"worker {index} {how} before it served"]
                self.stop(_CUT, now)
        elif self.stopping:
            log.log(logging.INFO if how.endswith("status 0") else logging.WARNING, "worker %d %s", index, how)
        else:
            wait = self._delay(index, age)
            self._due[index] = now + wait
            log.error("worker %d %s; another takes its place%s", index, how, f" in {wait:g} s" if wait else "")

    def _delay(self, index: int, age: float) -> float:
        """Seconds until a successor may begin: none, unless one after the other dies young."""
        deaths = self._deaths.get(index, 0) if age < _YOUNG else 0
        self._deaths[index] = deaths + 1
        return min(0.1 * 2**deaths, _LONGEST_WAIT) if deaths else 0.0

    def stop(self, word: bytes, now: float) -> None:
        """Have all workers end, by `_DRAIN` or by `_CUT`."""
        grace = self.gateway.settings.server.shutdown_grace if word == _DRAIN else 0.0
        self.end = min(self.end, now + grace + _PATIENCE)
        for worker in self.workers.values():
            worker.tell(word)

    def kill(self, now: float) -> None:
        """End what is left without asking."""
        self.end = now + _PATIENCE
        for worker in self.workers.values():
            os.kill(worker.pid, signal.SIGKILL)


class Supervisor:
    """Forks workers, waits for signals and for what workers say, and does not return before the last has ended."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._told = 0
        """How often it was told to stop."""
        self._wakeup, self._signalled = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signalled.setblocking(False)

    def run(self, ready: Ready) -> None:
        """Serve until a signal, and until all workers have ended.

        Raises:
            StartupError: a worker could not start.
        """
        generation, announced = self.generation, False
        with self._signals_caught():
            while generation.workers or not generation.stopping:
                for index in generation.missing(time.monotonic()):
                    self._fork(index)
                self._wait(generation.next_event() - time.monotonic())
                self._reap()
                if generation.established and not announced:
                    announced = True
                    ready(address(generation.gateway.settings.server, generation.shared.sock), generation.models)
        if generation.faults:
            raise StartupError(*dict.fromkeys(generation.faults))

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in (*_STOPS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup tells which it was
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()
            self._signalled.close()

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, a worker says something, or so many seconds have passed."""
        lines = {worker.line.fileno(): worker for worker in self.generation.workers.values() if not worker.silent}
        poll = select.poll()
        for number in (self._wakeup.fileno(), *lines):
            poll.register(number, select.POLLIN)
        found = poll.poll(None if seconds == math.inf else max(0.0, seconds) * 1000)
        for number, _ in found:
            if number in lines:
                lines[number].hear()
            else:
                for told in self._wakeup.recv(4096):
                    if told in _STOPS:
                        self._stop()
        self.generation.listened()
        if self.generation.end <= time.monotonic():
            log.warning("%d workers did not end in time and are killed", len(self.generation.workers))
            self.generation.kill(time.monotonic())

    def _stop(self) -> None:
        generation, now = self.generation, time.monotonic()
        self._told += 1
        if self._told == 1:
            log.info("stopping: running requests have %g s", generation.gateway.settings.server.shutdown_grace)
            remove_file(generation.gateway.settings.server)
            generation.shared.sock.close()
            generation.stop(_DRAIN, now)
        elif self._told == 2:
            log.warning("stopped by a second signal: running requests are cut off")
            generation.stop(_CUT, now)
        else:
            generation.kill(now)

    def _reap(self) -> None:
        by_pid = {worker.pid: worker for worker in self.generation.workers.values()}
        while by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (worker := by_pid.pop(pid, None)) is not None:
                if not worker.silent:
                    worker.hear()  # its last words
                self.generation.died(worker, _how(status), time.monotonic())

    def _fork(self, index: int) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()  # what is not written yet would be written by both
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # the child would pass a signal of its own on to the parent
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            ours.close()
            theirs.close()
            self.generation.lost(index, f"cannot be forked: {error.strerror}", time.monotonic())
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            theirs.close()
            ours.setblocking(False)
            self.generation.workers[index] = Worker(index, pid, ours, time.monotonic())
        else:
            self._become(index, ours, theirs)

    def _become(self, index: int, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        """Live as a worker, in the child."""
        status = 1
        try:
            _forget_signals()
            # Whoever holds the parent's end of a line hides from that worker that the parent is gone.
            for held in (ours, self._wakeup, self._signalled, *(one.line for one in self.generation.workers.values())):
                held.close()
            self.generation.gateway.worker = index
            status = _work(self.generation.gateway, self.generation.shared, theirs)
        except BaseException:  # noqa: BLE001  # nothing may return into the parent's stack
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent says what is to be done
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"


def _work(gateway: Gateway, shared: SharedSocket, line: socket.socket) -> int:
    """A worker's life; its exit status."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(gateway, shared, line))
    except StartupError as error:
        _report(line, faults=error.faults)
        return 1
    return 0


async def _serve(gateway: Gateway, shared: SharedSocket, line: socket.socket) -> None:
    stop, loop = Stop(), asyncio.get_running_loop()

    def told() -> None:
        word = b""
        with contextlib.suppress(OSError):
            word = line.recv(1)
        if word == _CUT:
            stop.cut()
            return
        stop.drain()
        if not word:
            loop.remove_reader(line)
            log.warning("the parent process is gone: this worker lets its requests end, and ends")

    loop.add_signal_handler(signal.SIGTERM, stop.drain)
    loop.add_reader(line, told)
    await serve_until(stop, gateway, lambda _, models: _report(line, models=models), shared)
    loop.remove_reader(line)


def _report(line: socket.socket, *, models: int | None = None, faults: list[str] | None = None) -> None:
    with contextlib.suppress(OSError):  # the parent is gone; the line's end will tell
        line.sendall(json.dumps({"models": models, "faults": faults or []}).encode() + b"\n")
