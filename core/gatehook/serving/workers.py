"""The life of one worker process, from its fork to its exit status.

It serves until its parent tells it to stop, or is gone. Signals reach a worker in other ways, too (Ctrl-C and service
managers signal every process), so only the line to the parent says whether to drain or to stop at once.
"""

import asyncio
import contextlib
import json
import logging
import signal
import socket

from gatehook.app import Gateway
from gatehook.errors import StartupError
from gatehook.serving.accepting import SharedSocket
from gatehook.serving.generation import CUT, YIELD
from gatehook.serving.server import Stop, loop_factory, serve_until

__all__ = ["work"]

log = logging.getLogger("gatehook")


def work(gateway: Gateway, shared: SharedSocket, line: socket.socket) -> int:
    """Serve as a worker, in a child that has just been forked; returns the exit status."""
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
        gateway.retiring = word == YIELD
        if word == CUT:
            stop.cut()
        else:
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
