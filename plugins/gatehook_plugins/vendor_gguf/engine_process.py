"""The process of one model (its engine), as the host sees it: started, listened to, stopped."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from gatehook_plugins.vendor_gguf.failures import EngineFailed
from gatehook_plugins.vendor_gguf.options import EngineOptions

__all__ = ["PROGRAM", "EngineProcess"]

log = logging.getLogger("gatehook.vendor_gguf")

PROGRAM: Final = (sys.executable, "-m", "gatehook_plugins.vendor_gguf.engine")

_LINE: Final = 1 << 20
"""The most bytes of a line that is read."""
_LAST_WORDS: Final = 5
"""Lines of standard error that are kept, to say how the process ended."""
_ENDING: Final = 5.0
"""The seconds that it has to end, before it is killed."""
_LOOKS: Final = 4
"""So many looks in a row must find no sign of life for it to be hung: the host may have been halted during one."""


class EngineProcess:
    """A process that loads one model and answers on a Unix socket. It ends when its standard input does."""

    def __init__(self, options: EngineOptions, program: Sequence[str] = PROGRAM) -> None:
        """Nothing is started yet; `program` is the command of the engine."""
        self.options = options
        self.context = 0
        """Tokens of a request and its answer, once it is ready."""
        self._program = tuple(program)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._ready_at: float | None = None
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listeners: list[asyncio.Task[None]] = []
        self._killer: asyncio.TimerHandle | None = None
        self._was_killed = False
        """Whether it was killed by this object."""
        self._heard = False
        """Whether it gave a sign of life since the last look."""
        self._hung = False

    @property
    def socket(self) -> str:
        """Where it answers."""
        return self.options.socket

    async def begin(self, progress: Callable[[float], None], timeout: float) -> None:
        """Start the process, and wait until it answers.

        Args:
            progress: is told the part of the model that is loaded, 0 to 1.
            timeout: seconds.

        Raises:
            EngineFailed: it cannot be started, or cannot load the model, or not in time.
        """
        environ = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # otherwise each abort starts a debugger
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._program, stdin=pipe, stdout=pipe, stderr=pipe, env=environ, limit=_LINE
            )
        except OSError as error:
            raise EngineFailed(f"cannot be started: {error.strerror or error}") from None
        assert process.stdin is not None  # noqa: S101
        self._listeners = [asyncio.create_task(self._hear_words(process))]
        with contextlib.suppress(ConnectionError):  # it has ended; its output tells why
            process.stdin.write(msgspec.json.encode(self.options) + b"\n")
            await process.stdin.drain()
        if self._stopping:  # `stop` was called while it was being started
            self._end(process)
        try:
            async with asyncio.timeout(timeout):
                await self._wait_ready(process, progress)
        except TimeoutError:
            await self._killed(process)
            raise EngineFailed(f"was not loaded within {timeout:g} s (load_timeout)") from None
        except BaseException:
            await self._killed(process)
            raise
        self._ready_at = time.monotonic()

    async def wait(self) -> None:
        """Wait until it has ended after `stop()`.

        Raises:
            EngineFailed: it has ended for another reason.
        """
        assert self._process is not None  # noqa: S101  # started before
        watch = asyncio.create_task(self._watch(self._process))
        try:
            await self._process.wait()
        finally:
            watch.cancel()
        await self._heard_out()
        if not self._stopping or (self._process.returncode and not self._was_killed):
            served = time.monotonic() - (self._ready_at or time.monotonic())
            raise EngineFailed(self._how_it_ended(self._process), served=served)

    def stop(self) -> None:
        """Have it end, now or as soon as it is started."""
        self._stopping = True
        if self._process is not None:
            self._end(self._process)

    @property
    def pid(self) -> int | None:
        """The process's id; None before it is started."""
        return None if self._process is None else self._process.pid

    @property
    def memory(self) -> int | None:
        """Bytes of memory that it holds now; None if that cannot be read."""
        if self._process is None:
            return None
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1]
        except (OSError, IndexError):
            return None
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def _wait_ready(self, process: asyncio.subprocess.Process, progress: Callable[[float], None]) -> None:
        assert process.stdout is not None  # noqa: S101
        while said := await self._line(process.stdout):
            word = _decoded(said)
            if isinstance(told := word.get("progress"), int | float):
                progress(float(told))
            elif isinstance(warning := word.get("warning"), str):
                log.warning("%s: %s", self.options.name, warning)
            elif isinstance(failed := word.get("failed"), dict):
                await self._killed(process)
                raise EngineFailed(f"could not be loaded: {failed.get('message') or failed.get('code')}")
            elif isinstance(ready := word.get("ready"), dict):
                self.context = int(ready.get("context") or 0)
                self._listeners.append(asyncio.create_task(self._hear_signs(process.stdout)))
                return
        await process.wait()
        await self._heard_out()
        raise EngineFailed(self._how_it_ended(process))

    async def _hear_words(self, process: asyncio.subprocess.Process) -> None:
        """Keep the last lines of its standard error."""
        assert process.stderr is not None  # noqa: S101
        while said := await self._line(process.stderr):
            if text := said.decode("utf-8", "replace").strip():
                self._words.append(text[:500])
                log.debug("%s: %s", self.options.name, text)

    async def _hear_signs(self, stream: asyncio.StreamReader) -> None:
        while await stream.read(_LINE):
            self._heard = True

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill it when it hangs."""
        if not self.options.step_timeout:
            return
        silent = 0
        while silent < _LOOKS:
            self._heard = False
            await asyncio.sleep(self.options.step_timeout / _LOOKS)
            silent = 0 if self._heard else silent + 1
        self._hung = True
        self._kill(process)

    @staticmethod
    async def _line(stream: asyncio.StreamReader) -> bytes:
        """The next line; lines that are too long are skipped."""
        while True:
            try:
                return await stream.readline()
            except ValueError:
                continue

    async def _heard_out(self) -> None:
        """After its end: read the last output (not for ever, as a child of its own may hold the pipe), and clean up."""
        await asyncio.wait(self._listeners, timeout=1.0)
        for listener in self._listeners:
            listener.cancel()
        if self._killer is not None:
            self._killer.cancel()
        with contextlib.suppress(OSError):
            os.unlink(self.options.socket)  # noqa: PTH108  # on the gateway's own folder, in memory where there is one

    def _end(self, process: asyncio.subprocess.Process) -> None:
        if self._killer is None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            self._killer = asyncio.get_running_loop().call_later(_ENDING, self._kill, process)

    async def _killed(self, process: asyncio.subprocess.Process) -> None:
        self._kill(process)
        await process.wait()
        await self._heard_out()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            self._was_killed = True
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    def _how_it_ended(self, process: asyncio.subprocess.Process) -> str:
        status = process.returncode or 0
        if self._hung:
            how = f"hung: it gave no sign of life for {self.options.step_timeout:g} s (step_timeout), and was killed"
        elif status == -signal.SIGKILL:
            how = "was killed (SIGKILL), as the system does when memory runs out"
        elif status < 0:
            how = f"ended by signal {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        return f"{how}: {' | '.join(self._words)}" if self._words else how


def _decoded(said: bytes) -> dict[str, Any]:
    try:
        word = json.loads(said)
    except ValueError:  # a library printed something
        return {}
    return word if isinstance(word, dict) else {}
