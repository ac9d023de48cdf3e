"""``python -m gatehook_plugins.vendor_gguf.host FOLDER [ENGINE ...]``: the process that keeps a gateway's local models.

It listens in FOLDER, which is the gateway's own, and goes into the background: the command returns when workers can
connect, and does nothing where a host is there already. ENGINE is the command of the engines, instead of our own.

It lives for as long as a worker is connected, and a moment longer if the last one was lost without a `Bye`, as its
successor will come soon. Its models end with it.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from gatehook_plugins.vendor_gguf.engine_process import PROGRAM, EngineProcess
from gatehook_plugins.vendor_gguf.failures import Refusal
from gatehook_plugins.vendor_gguf.manager import Manager
from gatehook_plugins.vendor_gguf.measure import measured
from gatehook_plugins.vendor_gguf.messages import (
    Acquire,
    Bye,
    Done,
    Hello,
    Leased,
    Load,
    Message,
    Refused,
    Release,
    Reply,
    Report,
    Spec,
    Told,
    Unload,
    line,
    read_message,
)
from gatehook_plugins.vendor_gguf.resident import Engine, Resident
from gatehook_plugins.vendor_gguf.sockets import engine_socket, host_socket

__all__ = ["Host"]

log = logging.getLogger("gatehook.vendor_gguf")

_LINGER: Final = 5.0
"""Seconds that it lives on without a worker, if the last one did not say `Bye`."""
_LINE: Final = 4 << 20
"""The most bytes of a message: a chat template may be in it."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"


class Host:
    """Accepts connections of workers, and has a `Manager` do what they ask for."""

    def __init__(self, folder: Path, program: Sequence[str] = PROGRAM) -> None:
        """Engines, started by the command `program`, listen in `folder`."""
        self._folder = folder
        self._program = program
        self._numbers = itertools.count(1)
        self._lines: set[_Line] = set()
        self._over = asyncio.Event()
        self._lingering: asyncio.TimerHandle | None = None
        self.manager = Manager(self._engine, _measure)

    async def serve(self, sock: socket.socket) -> None:
        """Serve on this socket until no worker needs the host any more."""
        self._linger()
        server = await asyncio.start_unix_server(self._welcome, sock=sock, limit=_LINE)
        await self._over.wait()
        host_socket(self._folder).unlink(missing_ok=True)  # first: afterwards it may be the next host's
        server.close()
        await self.manager.close()
        for one in list(self._lines):
            one.close()

    def left(self, one: "_Line", *, in_peace: bool) -> None:
        """A worker has gone. After the last one the host ends: at once if it said `Bye`, else after a moment."""
        self._lines.discard(one)
        if not self._lines:
            if in_peace:
                self._over.set()
            else:
                self._linger()

    async def ended(self) -> None:
        """Wait until all models have ended, if the host is ending."""
        if self._over.is_set():
            await self.manager.close()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        one = _Line(self, reader, writer)
        self._lines.add(one)
        await one.serve()

    def _linger(self) -> None:
        def end() -> None:
            if not self._lines:
                self._over.set()

        self._lingering = asyncio.get_running_loop().call_later(_LINGER, end)

    def _engine(self, spec: Spec) -> Engine:
        at = engine_socket(self._folder, next(self._numbers))
        return EngineProcess(msgspec.structs.replace(spec.options, socket=str(at)), self._program)


class _Line:
    """The connection of one worker, and the models it has leased."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._manager = host.manager
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._leases: dict[int, Resident] = {}

    async def serve(self) -> None:
        """Do what the worker asks for until it has gone, then take back its leases."""
        in_peace = False
        try:
            while said := await self._reader.readline():
                message = read_message(said)
                if isinstance(message, Bye):
                    in_peace = True
                    break
                self._do(message)
        except (ConnectionError, ValueError) as error:  # ValueError: no message of ours
            log.warning("a worker's line broke: %s", error)
        finally:
            for task in self._tasks.values():
                task.cancel()
            for resident in self._leases.values():
                self._manager.release(resident)
            self._leases.clear()
            self._host.left(self, in_peace=in_peace)
            if in_peace:
                await self._host.ended()
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def _do(self, message: Message) -> None:
        match message:
            case Hello(rules):
                self._manager.adopt(rules)
                self._say(Done(0))
            case Acquire(id, spec):
                self._run(id, self._acquire(id, spec))
            case Release(id, broken):
                self._release(id, broken=broken)
            case Load(id, spec, exact):
                self._run(id, self._done(id, self._manager.load(spec, exact=exact)))
            case Unload(id, name):
                self._run(id, self._done(id, self._manager.unload(name)))
            case Report(id):
                manager = self._manager
                self._say(Told(id, tuple(manager.states()), manager.memory, dict(manager.failures)))
            case Bye():
                pass

    def _run(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._answered(id, work))
        self._tasks[id] = task
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _answered(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refusal as refusal:
            self._say(Refused(id, refusal.code, refusal.message, refusal.retry_after))
        except Exception:
            log.exception("a message of a worker could not be dealt with")
            self._say(Refused(id, "server_error", "the process that keeps local models failed; its log tells more"))

    async def _acquire(self, id: int, spec: Spec) -> None:
        self._leases[id] = resident = await self._manager.acquire(spec)
        self._say(Leased(id, resident.engine.socket))

    async def _done(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        await work
        self._say(Done(id))

    def _release(self, id: int, *, broken: bool) -> None:
        if (resident := self._leases.pop(id, None)) is not None:
            if broken:
                self._manager.doubt(resident)
            self._manager.release(resident)
        elif (task := self._tasks.get(id)) is not None:
            task.cancel()

    def _say(self, reply: Reply) -> None:
        if not self._writer.is_closing():
            self._writer.write(line(reply))


async def _measure(spec: Spec) -> int | None:
    return await measured(spec.options)


# --- into the background


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: several workers may start a host at the same moment."""
    lock = os.open(folder / "host.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # also for the forked host, which has inherited the descriptor
        os.close(lock)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(256)
    return sock


def _live(host: Host, sock: socket.socket) -> None:
    """Be the host, in the background."""
    os.setsid()
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Whoever sends them to all processes of a service means the gateway, which drains. Engines inherit this.
        signal.signal(stop, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1):  # errors go where the gateway's go
        os.dup2(nothing, place)
    os.close(nothing)
    logging.basicConfig(level=logging.INFO, format=_FORMAT, stream=sys.stderr)

    asyncio.run(host.serve(sock))


def _main(folder: Path, program: Sequence[str]) -> int:
    try:
        with _alone(folder):
            if _answers(host_socket(folder)):
                return 0
            sock = _listen(host_socket(folder))
            if os.fork():
                return 0
    except OSError as error:
        sys.stdout.write(f"{error.strerror or error}: {host_socket(folder)}\n")
        return 1
    try:
        _live(Host(folder, program or PROGRAM), sock)
    except BaseException:
        log.exception("the process that keeps local models failed")
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[2:]))
