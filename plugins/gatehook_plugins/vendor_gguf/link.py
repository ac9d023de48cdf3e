"""A worker's connection to the host. When it is lost it is opened again, to a new host if need be."""

import asyncio
import contextlib
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gatehook import GatewayError, Retry, StartupError, Unavailable, meanwhile
from gatehook_plugins.vendor_gguf.messages import (
    Acquire,
    Bye,
    Done,
    Hello,
    Leased,
    Load,
    Refused,
    Release,
    Reply,
    Report,
    Rules,
    Spec,
    Told,
    Unload,
    line,
    read_reply,
)
from gatehook_plugins.vendor_gguf.sockets import LONGEST_PATH, engine_socket, host_socket

__all__ = ["Lease", "Link"]

log = logging.getLogger("gatehook.vendor_gguf")

_PROGRAM: Final = (sys.executable, "-m", "gatehook_plugins.vendor_gguf.host")
_ENGINE: Sequence[str] = ()
"""The command of engines, if not our own."""
_LINE: Final = 16 << 20
"""The most bytes of a message."""
_STARTING: Final = 30.0
"""Seconds that a host may take to start; and to end all models, at the end."""

_WAITS: Final = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds to wait, try after try, before another host is started instead of one that does not answer."""
_ATTEMPTS: Final = 3
"""How often a question is asked, each time on a new connection."""
_PAUSE: Final = 5.0
"""Seconds until the next try to start a host, for pinned models."""

R = TypeVar("R", bound=Reply)
_Question = Acquire | Load | Unload | Report


class _Lost(Exception):
    """The connection to the host is lost; what it was asked may have been done or not."""


class Lease:
    """A loaded model, leased for one request. It must be released."""

    __slots__ = ("_id", "_link", "_spec", "_writer", "socket")

    def __init__(self, link: "Link", spec: Spec, writer: asyncio.StreamWriter, id: int, socket: str) -> None:
        self._link = link
        self._spec = spec
        self._writer: asyncio.StreamWriter | None = writer
        self._id = id
        self.socket = socket
        """Path of the Unix socket on which the model's engine listens."""

    def release(self, *, broken: bool = False) -> None:
        """Give it back: the request has ended, or could not be sent as the engine is `broken`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._link.release(writer, self._id, broken=broken)

    async def renew(self) -> None:
        """Lease the model anew, in the place of an engine that has just ended and takes no requests.

        Raises:
            Unavailable: as for `Link.acquire`.
        """
        self.release(broken=True)
        self._writer, self._id, self.socket = await self._link.take(self._spec)


class Link:
    """Asks the host to load, lease and unload models. Use within `lifespan()`."""

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self.rules = Rules()
        """This worker's rules; the host goes by the newest that any worker has sent."""
        self._folder: Path | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._opening = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Reply]] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self, folder: Path, rules: Rules) -> AsyncIterator[None]:
        """Connect to the host of this folder, if there is one; start it if models are pinned.

        Without pinned models it is started when the first model is needed, which in some gateways is never.

        Args:
            folder: the gateway's own, and the same for all workers.
            rules: which models the host may load, and for how long.

        Raises:
            StartupError: the host cannot be started.
        """
        longest = len(os.fsencode(engine_socket(folder, 1 << 32)))
        if longest > LONGEST_PATH:
            raise StartupError(
                f"[plugins.vendor_gguf] the path of {folder} is too long: sockets in it would have {longest} bytes, "
                f"and {LONGEST_PATH} are possible; set TMPDIR to a shorter one"
            )
        self._folder, self.rules = folder, rules
        if not rules.pinned:
            await self._joined()
            try:
                yield
            finally:
                await self._close()
            return
        try:
            await self._opened()
        except Unavailable as error:
            raise StartupError(f"[plugins.vendor_gguf] {error.message}") from None
        try:
            async with meanwhile(self._keep_open()):
                yield
        finally:
            await self._close()

    async def acquire(self, spec: Spec) -> Lease:
        """A lease of a model, which is loaded first if need be.

        Raises:
            Unavailable: it cannot be loaded, or there is no room for it.
        """
        return Lease(self, spec, *await self.take(spec))

    async def take(self, spec: Spec) -> tuple[asyncio.StreamWriter, int, str]:
        """What a lease is made of: its connection, its id there, and the path of the engine's socket."""
        wish = Acquire(next(self._ids), spec)
        writer, leased = await self._ask(wish, Leased)
        return writer, wish.id, leased.socket

    def release(self, writer: asyncio.StreamWriter, id: int, *, broken: bool = False) -> None:
        """Give back a lease, or stop waiting for one. With a connection that is lost, they are gone already."""
        if writer is self._writer and not writer.is_closing():
            writer.write(line(Release(id, broken)))

    async def load(self, spec: Spec, *, exact: bool = True) -> None:
        """Load a model, or if not `exact` any quantization of it; returns when it is loaded.

        Raises:
            Unavailable: as `acquire`.
        """
        await self._ask(Load(next(self._ids), spec, exact), Done)

    async def unload(self, name: str) -> None:
        """Unload a model when its requests are answered; returns when its memory is free.

        Raises:
            Unavailable: the host is gone.
        """
        await self._ask(Unload(next(self._ids), name), Done)

    async def report(self) -> Told:
        """The state of all models; where there is no host, none is loaded.

        Raises:
            Unavailable: the host is gone.
        """
        if not await self._joined():
            return Told(0, (), 0)
        _, told = await self._ask(Report(next(self._ids)), Told)
        return told

    async def _ask(self, message: _Question, kind: type[R]) -> tuple[asyncio.StreamWriter, R]:
        """The host's answer, and its connection. Asked again if that is lost: every question may be asked twice.

        Raises:
            Unavailable: the host refuses, or is gone.
        """
        for _ in range(_ATTEMPTS):
            writer = await self._opened()
            try:
                return writer, await self._answer(writer, message, kind)
            except asyncio.CancelledError:
                self.release(writer, message.id)
                raise
            except _Lost:
                continue
        raise Unavailable(
            "the process that keeps local models has ended; another takes its place",
            code="engine_host_lost",
            retry=Retry.SAME,
            retry_after=1.0,
        )

    async def _answer(self, writer: asyncio.StreamWriter, message: _Question, kind: type[R]) -> R:
        """Ask over one connection.

        Raises:
            _Lost: the connection broke before the answer. GatewayError: the host refuses.
        """
        if writer is not self._writer:
            raise _Lost
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[message.id] = future
        try:
            writer.write(line(message))
            reply = await future
        finally:
            self._asked.pop(message.id, None)
        if isinstance(reply, Refused):
            raise _refusal(reply)
        assert isinstance(reply, kind), reply  # noqa: S101
        return reply

    async def _opened(self) -> asyncio.StreamWriter:
        """The connection, opened if it is not.

        Raises:
            Unavailable: there is no host, and none can be started.
        """
        if self._writer is not None:
            return self._writer
        async with self._opening:
            if self._writer is None:
                self._writer = self._use(*await self._connected())
            return self._writer

    async def _joined(self) -> bool:
        """Connect, if there is a host already; gives whether there is a connection."""
        assert self._folder is not None, "enter lifespan() first"  # noqa: S101
        async with self._opening:
            if self._writer is None:
                with contextlib.suppress(OSError, TimeoutError):
                    self._writer = self._use(*await self._greeted(host_socket(self._folder)))
            return self._writer is not None

    def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
        """Begin to listen on a new connection."""
        self._listener = asyncio.create_task(self._listen(reader, writer))
        return writer

    async def _keep_open(self) -> None:
        """Connect again whenever the connection is lost, also without requests: pinned models must stay loaded."""
        while True:
            if self._listener is not None:
                await asyncio.wait([self._listener])
            try:
                await self._opened()
            except Unavailable as error:
                log.error("%s", error.message)  # noqa: TRY400  # the message tells it all
                await asyncio.sleep(_PAUSE)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a host, which is started if there is none.

        Raises:
            Unavailable: none can be started.
        """
        assert self._folder is not None, "enter lifespan() first"  # noqa: S101
        fault = ""
        for wait in _WAITS:
            with contextlib.suppress(OSError, TimeoutError):
                return await self._greeted(host_socket(self._folder))
            await asyncio.sleep(wait)
            if fault := await asyncio.to_thread(_begin_host, self._folder):
                break
        raise Unavailable(
            f"the process that keeps local models cannot be started: {fault or 'it does not answer'}",
            code="engine_host_failed",
        )

    async def _greeted(self, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which the host has answered: one that is ending may accept a connection and never read it.

        Raises:
            OSError: there is no host, or it is ending. TimeoutError: it does not answer.
        """
        reader, writer = await asyncio.open_unix_connection(path, limit=_LINE)
        try:
            writer.write(line(Hello(self.rules)))
            async with asyncio.timeout(_STARTING):
                if not await reader.readline():
                    raise ConnectionResetError
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass answers on to those who wait for them, until the connection ends."""
        try:
            while said := await reader.readline():
                reply = read_reply(said)
                future = self._asked.get(reply.id)
                if future is not None and not future.done():
                    future.set_result(reply)
                elif isinstance(reply, Leased):  # the request was cancelled at this moment
                    self.release(writer, reply.id)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("the connection to the process that keeps local models broke: %s", error)
        finally:
            self._writer = None
            writer.close()
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(_Lost())

    async def _close(self) -> None:
        """Say `Bye`; if this is the last worker, all models have ended when this returns."""
        writer, listener = self._writer, self._listener
        if writer is not None and listener is not None:
            writer.write(line(Bye()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STARTING):
                    await listener


def _begin_host(folder: Path) -> str:
    """Start a host, if there is none; gives why that failed, "" if it did not."""
    try:
        done = subprocess.run(  # noqa: S603
            [*_PROGRAM, str(folder), *_ENGINE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
            timeout=_STARTING,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stdout.decode("utf-8", "replace").strip()
    return said or (f"it ended with status {done.returncode}" if done.returncode else "")


def _refusal(refused: Refused) -> GatewayError:
    return Unavailable(refused.message, code=refused.code, retry_after=refused.retry_after)
