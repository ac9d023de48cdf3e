"""What is left behind by 200,000 requests: `python tests/bench/soak.py [--requests 200000] [--accounts]`.

Nineteen plain calls to one stream, on 16 connections, one worker. Prints memory (of parent and worker), open file
descriptors and asyncio tasks after each step; the exit status is 1 if the last step has more than the first but one.
"""

import argparse
import http.client
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench.contestants import KEY, MODEL, create_key, start_stub, started, write_settings
from tests.bench.host import PROC, cores, cpu_seconds, family, free_port, memory_bytes, pin
from tests.bench.load import Shape, chat_request, measure

STEPS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Of all requests. At the first, caches and pools are still being filled."""
STREAMS = 20
"""One request in so many is a stream."""
MEMORY_SLACK = 1.03
"""Allocators do not give everything back at once."""

PROGRAM = '''
import asyncio, sys
from pathlib import Path
from aiohttp import web
from gatehook import Gateway, Route, Section, hookimpl
from gatehook.config.settings import load
from gatehook.serving.supervisor import supervise
from gatehook.testing import available

class Probe:
    class Settings(Section):
        """None."""

    def __init__(self, settings):
        pass

    @hookimpl
    def register_routes(self, gateway):
        async def tasks(request):
            return web.Response(text=str(len(asyncio.all_tasks())))
        return [Route("GET", "/tasks", tasks, auth=False)]

supervise(lambda: Gateway(load(Path(sys.argv[1])), available({"probe": Probe})), lambda *told: None)
'''


@dataclass(frozen=True, slots=True)
class Reading:
    """What is held after so many requests."""

    requests: int
    memory: int
    """Bytes."""
    descriptors: int
    tasks: int

    def __str__(self) -> str:
        memory = self.memory / (1 << 20)
        return f"{self.requests:9,} requests  {memory:6.1f} MB  {self.descriptors:3} descriptors  {self.tasks:3} tasks"


def tasks(port: int) -> int:
    """Those of the worker, the one that answers included."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/tasks", headers={"Connection": "close"})
        return int(connection.getresponse().read())
    finally:
        connection.close()


def descriptors(pid: int) -> int:
    """Open files and sockets of a process and its descendants."""
    return sum(len(list((PROC / str(member) / "fd").iterdir())) for member in family(pid))


def readings(requests: int, *, accounts: bool) -> Iterator[Reading]:
    """One after each step."""
    with ExitStack() as stack:
        core, load_core = cores()
        pin(load_core)
        stub = start_stub(load_core, stack)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gatehook-bench-")))
        port = free_port()
        settings = write_settings(folder, port, f"http://127.0.0.1:{stub.port}", accounts=accounts)
        key = create_key(settings) if accounts else KEY
        settings.write_text(settings.read_text().replace("[[models]]", "[plugins.probe]\n\n[[models]]", 1))
        server = started("gatehook", [sys.executable, "-c", PROGRAM, str(settings)], port, core, stack, folder)
        plain, stream = (chat_request(f"127.0.0.1:{port}", key, MODEL, stream=stream) for stream in (False, True))
        done = 0
        for share in STEPS:
            goal = round(requests * share)
            shape = Shape(16, 1200.0, quota=goal - done)
            measure(("127.0.0.1", port), [plain] * (STREAMS - 1) + [stream], shape, lambda: cpu_seconds(server.pid))
            done = goal
            yield Reading(done, memory_bytes(server.pid), descriptors(server.pid), tasks(port))


def main(requests: int, *, accounts: bool) -> int:
    """Run it; gives the exit status."""
    found: list[Reading] = []
    for reading in readings(requests, accounts=accounts):
        print(reading, flush=True)
        found.append(reading)
    early, last = found[1], found[-1]
    grown = [
        name
        for name, held in (
            ("memory", last.memory <= early.memory * MEMORY_SLACK),
            ("file descriptors", last.descriptors <= early.descriptors),
            ("tasks", last.tasks <= early.tasks),
        )
        if not held
    ]
    print(f"grown: {', '.join(grown) or 'nothing'}")
    return 1 if grown else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--accounts", action="store_true", help="with keys, limits, budgets and the ledger on")
    options = parser.parse_args()
    sys.exit(main(options.requests, accounts=options.accounts))
