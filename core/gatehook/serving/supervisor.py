"""The parent process: it does not serve itself, but forks workers, replaces those that die, and changes generations.

A reload starts a new generation of workers beside the old one. The old ones are told to end only when all of the new
ones serve; until then a fault leaves everything as it was. The parent has no event loop and no thread, and never enters
the lifespan of a gateway that it has built: so it can fork at any time.
"""

import contextlib
import gc
import importlib
import logging
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from gatehook.app import Gateway
from gatehook.control import Asker, Control, listening
from gatehook.counting import counted
from gatehook.errors import StartupError
from gatehook.serving.accepting import WORKERS, SharedSocket
from gatehook.serving.generation import CUT, DRAIN, YIELD, Generation, Worker
from gatehook.serving.listening import address, file_of, listen, remove_file
from gatehook.serving.server import BACKLOG, loop_factory
from gatehook.serving.shared import shared_folder
from gatehook.serving.workers import work

__all__ = ["Ready", "Supervisor", "supervise"]

log = logging.getLogger("gatehook")

Ready = Callable[[Gateway, str, int], None]
"""Called once when clients can connect, with the gateway, its address, and how many models can be called."""

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_LONGEST_WAIT: Final = 86_400.0
"""Seconds of one poll(), which takes no more than 24 days; then it waits again."""


class _Interrupted(BaseException):
    """Ends the building of a gateway that is not wanted any more; no plugin's `except Exception` catches it."""


def supervise(build: Callable[[], Gateway], ready: Ready, *, start_limit: float = 60.0) -> None:
    """Serve with `server.workers` processes until SIGTERM or SIGINT; a second signal cuts requests off, a third kills.

    SIGHUP, or "reload" on the control socket, has `build` called again, and a new generation take over.

    Args:
        build: makes a gateway from the settings as they are at that moment.
        ready: called when the first generation serves.
        start_limit: seconds in which a later generation must serve.

    Raises:
        StartupError: the settings are wrong, the address cannot be listened on, or a worker cannot start.
    """
    gateway = build()
    with shared_folder() as folder, listening(gateway.settings.path) as control:
        Supervisor(build, folder, start_limit, control).run(gateway, ready)


class Supervisor:
    """Forks workers, waits for signals and for what workers say, until the last one has ended."""

    def __init__(self, build: Callable[[], Gateway], folder: Path, start_limit: float, control: Control | None) -> None:
        """`folder` is what the workers share; see `supervise`."""
        self._build = build
        self._folder = folder
        self._start_limit = start_limit
        self._control = control
        self._serving: Generation | None = None
        self._coming: Generation | None = None
        """The generation that will take over as soon as all its workers serve."""
        self._leaving: list[Generation] = []
        """The generations that let their last requests end."""
        self._askers: list[Asker] = []
        """Those who wait for the outcome of the coming generation."""
        self._waiting: list[Asker | None] = []
        """Those who have asked for a reload that has not begun yet; None stands for a signal."""
        self._told = 0
        """How often it was told to stop."""
        # `nohup` ignores SIGHUP: then it does not matter whether the terminal goes away.
        self._had_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._deadline = math.inf
        """When the coming generation must serve (time.monotonic)."""
        self._wakeup, self._signalled = socket.socketpair()
        self._wakeup.setblocking(False)
        self._signalled.setblocking(False)

    def run(self, gateway: Gateway, ready: Ready) -> None:
        """Serve until a signal, and until all workers have ended.

        Raises:
            StartupError: the address cannot be listened on, or a worker of the first generation could not start.
        """
        with self._signals_caught():
            first = self._coming = self._generation(gateway)
            try:
                while generations := self._generations():
                    for generation in generations:
                        for index in generation.missing(time.monotonic()):
                            self._fork(generation, index)
                    events = [one.next_event() for one in generations]
                    self._wait(min(*events, self._deadline) - time.monotonic())
                    self._reap()
                    if self._change() and self._serving is first:
                        ready(gateway, self._address(first), first.models)
            finally:
                if first.faults:
                    remove_file(first.gateway.settings.server, first.shared.file)
                self._close(first.shared)
        if first.faults:
            raise StartupError(*dict.fromkeys(first.faults))

    # --- generations

    def _generations(self) -> list[Generation]:
        return [one for one in (self._serving, self._coming, *self._leaving) if one is not None]

    def _generation(self, gateway: Gateway) -> Generation:
        """A new generation; on the socket that is served already, if it has the same address, and clients find it.

        Raises:
            StartupError: the address cannot be listened on, or there are too many workers that have not ended yet.
        """
        size = gateway.settings.server.workers
        taken = {index for one in self._generations() for index in (one.workers if one.stopping else one.indexes)}
        free = [index for index in range(WORKERS) if index not in taken][:size]
        if len(free) < size:
            raise StartupError(
                f"too many old workers have not ended yet ({len(taken)}) for {size} more; try again later"
            )
        serving, server = self._serving, gateway.settings.server
        same = serving is not None and _place(serving.gateway) == _place(gateway)
        if serving is not None and same and file_of(server) == serving.shared.file:
            shared = serving.shared
        else:
            sock = listen(server)
            sock.listen(BACKLOG)
            shared = SharedSocket(sock, file=file_of(server))
        # A single process keeps counts in its own memory, which is quicker than files; but those of several go on.
        had_several = serving is not None and serving.gateway.shared is not None
        gateway.shared = self._folder if size > 1 or had_several else None
        gateway.runtime = self._folder
        gateway.control = None if self._control is None else self._control.path
        loop_factory()  # so that uvloop is imported once, before the workers are forked
        if serving is not None:  # not for the first generation: there is no garbage yet that would be worth the time
            gc.unfreeze()
            gc.collect()
        gc.freeze()  # the collector writes to the objects it looks at, and workers would no longer share their memory
        gc.enable()
        return Generation(gateway, shared, free)

    def _change(self) -> bool:
        """Move on with the generations; True if another one serves now."""
        coming, took_over = self._coming, False
        if coming is not None and coming.ended:
            self._coming = None
            self._give_up(coming)
        elif coming is not None and not coming.stopping:
            if coming.established:
                self._coming, took_over = None, True
                self._take_over(coming)
            elif time.monotonic() >= self._deadline:
                coming.faults.append(f"the new workers did not serve within {self._start_limit:g} s")
                coming.stop(CUT, time.monotonic())
        if self._coming is None or self._coming.stopping:
            self._deadline = math.inf
        if self._serving is not None and self._serving.ended:
            self._serving = None
        self._leaving = [one for one in self._leaving if not one.ended]
        if self._coming is None and self._serving is not None and not self._told and self._waiting:
            waiting, self._waiting = self._waiting, []
            self._reload([asker for asker in waiting if asker is not None])
        return took_over

    def _take_over(self, coming: Generation) -> None:
        old, self._serving = self._serving, coming
        size, place = len(coming.indexes), self._address(coming)
        if old is not None:
            old.stop(YIELD, time.monotonic())
            self._leaving.append(old)
            self._retire(old, coming)
            log.info(
                "the new settings are in force: %s, %s, %s; the old ones let their requests end",
                counted(len(coming.gateway.plugins.names), "plugin"),
                counted(coming.models, "model"),
                counted(size, "worker"),
            )
        self._tell(faults=[], address=place, models=coming.models, workers=size)

    def _give_up(self, coming: Generation) -> None:
        """Drop a generation that could not start, or was told to stop before it had."""
        if self._serving is not None and not self._told:
            self._retire(coming, self._serving)
            self._refuse(coming.faults)

    def _retire(self, old: Generation, other: Generation) -> None:
        """Close the socket of a generation, unless the other one uses the same."""
        if old.shared is not other.shared:
            server = old.gateway.settings.server
            if server.uds != other.gateway.settings.server.uds:
                remove_file(server, old.shared.file)
            self._close(old.shared)

    def _reload(self, askers: list[Asker]) -> None:
        """Start a generation with the settings as they are now."""
        self._askers = askers
        log.info("reloading the settings")
        importlib.invalidate_caches()  # a plugin may have been installed meanwhile
        try:
            with self._interruptible():
                gateway = self._build()
            self._coming = self._generation(gateway)
            self._deadline = time.monotonic() + self._start_limit
        except StartupError as error:
            self._refuse(error.faults)
        except _Interrupted as interrupted:
            self._refuse([str(interrupted)])
        except Exception as error:
            log.exception("the settings cannot be reloaded")
            self._refuse([repr(error)])

    def _refuse(self, faults: list[str]) -> None:
        for fault in dict.fromkeys(faults):
            log.error("the old settings stay in force: %s", fault)
        self._tell(faults=list(dict.fromkeys(faults)))

    def _tell(self, **said: object) -> None:
        for asker in self._askers:
            asker.answer(**said)
        self._askers = []

    # --- what happens

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in (*_STOPS, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _ignore)  # the wakeup socket tells which it was
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # which waited until now
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            self._wakeup.close()
            self._signalled.close()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Interrupt what runs in this context after `start_limit`, or at a signal to stop: a plugin may hang.

        Meanwhile nobody looks after the workers.

        Raises:
            _Interrupted: it took too long, or a signal came.
        """

        def interrupt(number: int, _: object) -> None:
            late = f"the plugins were not loaded within {self._start_limit:g} s"
            raise _Interrupted(late if number == signal.SIGALRM else "the gateway is stopping")

        for number in (*_STOPS, signal.SIGALRM):
            signal.signal(number, interrupt)
        signal.setitimer(signal.ITIMER_REAL, self._start_limit)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number in (*_STOPS, signal.SIGALRM):
                signal.signal(number, _ignore)

    def _wait(self, seconds: float) -> None:
        """Wait until a signal comes, somebody says something, or so many seconds have passed; and deal with it."""
        generations = self._generations()
        lines = {one.line.fileno(): one for each in generations for one in each.workers.values() if not one.silent}
        control = -1 if self._control is None else self._control.fileno()
        poll = select.poll()
        for number in (self._wakeup.fileno(), control, *lines):
            if number >= 0:
                poll.register(number, select.POLLIN)
        found = poll.poll(None if seconds == math.inf else max(0.0, min(seconds, _LONGEST_WAIT)) * 1000)
        for number, _ in found:
            if number in lines:
                lines[number].hear()
            elif number == control:
                self._asked()
            else:
                self._listen()
        for generation in generations:
            generation.listened()
            if generation.end <= time.monotonic():
                log.warning("killed, as they did not end in time: %s", counted(len(generation.workers), "worker"))
                generation.kill(time.monotonic())

    def _listen(self) -> None:
        """Deal with the signals that have come."""
        for number in self._wakeup.recv(4096):
            if number in _STOPS or (number == signal.SIGHUP and self._had_terminal and not _has_terminal()):
                self._stop()  # SIGHUP also comes when the terminal is closed that it was started in
            elif number == signal.SIGHUP:
                self._waiting.append(None)

    def _asked(self) -> None:
        """Deal with somebody on the control socket."""
        assert self._control is not None  # noqa: S101  # it was polled
        heard = self._control.hear()
        if heard is None:
            return
        word, asker = heard
        if word not in ("reload", "address"):
            asker.answer(faults=[f"unknown word {word!r}; there are: reload, address"])
        elif self._told:
            asker.answer(faults=["the gateway is stopping"])
        elif word == "reload":
            self._waiting.append(asker)
        elif self._serving is None:
            asker.answer(faults=["the gateway does not serve yet"])
        else:
            asker.answer(faults=[], address=self._address(self._serving))

    def _stop(self) -> None:
        now = time.monotonic()
        self._told += 1
        generations = self._generations()
        if self._told == 1:
            grace = max(one.gateway.settings.server.shutdown_grace for one in generations)
            log.info("stopping: running requests have %g s", grace)
            for generation in generations:
                if generation not in self._leaving:  # another server may use the path of those by now
                    remove_file(generation.gateway.settings.server, generation.shared.file)
                self._close(generation.shared)
                generation.stop(DRAIN, now)
        elif self._told == 2:
            log.warning("stopped by a second signal: running requests are cut off")
            for generation in generations:
                generation.stop(CUT, now)
        else:
            for generation in generations:
                generation.kill(now)

    def _reap(self) -> None:
        by_pid = {worker.pid: (one, worker) for one in self._generations() for worker in one.workers.values()}
        while by_pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (known := by_pid.pop(pid, None)) is not None:
                generation, worker = known
                if not worker.silent:
                    worker.hear()  # its last words
                generation.died(worker, _how(status), time.monotonic())

    # --- forking

    def _fork(self, generation: Generation, index: int) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()  # otherwise both processes would write what is buffered
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # at first the child shares the wakeup socket with the parent
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            ours.close()
            theirs.close()
            generation.lost(index, f"cannot be forked: {error.strerror}", time.monotonic())
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
            theirs.close()
            ours.setblocking(False)
            generation.workers[index] = Worker(index, pid, ours, time.monotonic())
        else:
            self._become(generation, index, ours, theirs)

    def _become(self, generation: Generation, index: int, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        """Become a worker, in the child."""
        status = 1
        try:
            _forget_signals()
            self._let_go(generation)
            ours.close()
            generation.gateway.worker = index
            status = work(generation.gateway, generation.shared, theirs)
        except BaseException:  # noqa: BLE001  # nothing may return into the parent's stack
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _let_go(self, mine: Generation) -> None:
        """Close, in the child, all that is the parent's.

        A process that holds the parent's end of a line keeps that worker from seeing that the parent is gone; and one
        that holds a listening socket that is no longer served lets clients connect in vain.
        """
        self._wakeup.close()
        self._signalled.close()
        for generation in self._generations():
            for worker in generation.workers.values():
                worker.line.close()
            if generation.shared is not mine.shared:
                generation.shared.sock.close()
        for asker in (*self._askers, *self._waiting):
            if asker is not None:
                asker.close()
        if self._control is not None:
            self._control.close(remove=False)

    def _address(self, generation: Generation) -> str:
        return address(generation.gateway.settings.server, generation.shared.sock)

    @staticmethod
    def _close(shared: SharedSocket) -> None:
        if shared.sock.fileno() >= 0:
            shared.sock.close()


def _ignore(*_: object) -> None:
    """Do nothing: the wakeup socket has the signal."""


def _place(gateway: Gateway) -> tuple[str, int, str]:
    server = gateway.settings.server
    return server.host, server.port, server.uds


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends these to every process; the parent decides
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
