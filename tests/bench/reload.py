"""A minute of traffic over three reloads: `python tests/bench/reload.py [--seconds 60] [--clients 16]`.

Plain calls and streams on kept connections, through two workers, in front of the local stub. At a quarter of the time a
plugin is switched off, at the half the settings are wrong, at three quarters there is one worker more. Prints what was
answered, and every request that failed; the exit status is 1 if one did.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench.contestants import KEY, MODEL, PACED_MODEL, gatehook_command, start_stub, started, write_settings
from tests.bench.host import Process, cores, free_port

METRICS = "[plugins.metrics]\nenabled = true"


class Traffic:
    """Clients that ask on and on; every second one for streams that take 0.64 s."""

    def __init__(self, port: int, until: float) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.until = until
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []

    async def client(self, *, stream: bool) -> None:
        """One of them, on one connection at a time."""
        body = {"model": PACED_MODEL if stream else MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"Authorization": f"Bearer {KEY}"}
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
            while time.monotonic() < self.until:
                try:
                    await self._ask(http, {**body, "stream": stream})
                except Exception as error:  # noqa: BLE001  # whatever it is, it was a request that failed
                    self.failed.append(f"{'stream' if stream else 'plain'}: {error!r}")

    async def _ask(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        async with http.post(self.url, json=body) as answer:
            text = await answer.read()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {text[:200]!r}")
            if body["stream"]:
                if not text.endswith(b"data: [DONE]\n\n"):
                    raise ValueError(f"cut: {text[-200:]!r}")
                self.answered["streams"] += 1
            elif json.loads(text)["choices"]:
                self.answered["plain"] += 1


def reloads(settings: Path, server: Process, seconds: float) -> None:
    """The three, each at its time. Blocks."""
    text = settings.read_text()
    for what, changed in (
        ("metrics switched off", text.replace(METRICS, METRICS.replace("true", "false"))),
        ("wrong settings", text.replace("port = ", "prot = ", 1)),
        ("three workers", text.replace("workers = 2", "workers = 3")),
    ):
        time.sleep(seconds / 4)
        if changed == text:
            raise SystemExit(f"the settings of the benchmark have changed: {what} cannot be written")
        settings.write_text(changed)
        os.kill(server.pid, signal.SIGHUP)
        print(f"  {what}", flush=True)


async def load(traffic: Traffic, clients: int, reloading: Callable[[], None]) -> None:
    """Until its time is over."""
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(traffic.client(stream=number % 2 == 1))
        group.create_task(asyncio.to_thread(reloading))


def main(seconds: float, clients: int) -> int:
    """Run it; gives the exit status."""
    with ExitStack() as stack:
        core, load_core = cores()
        stub = start_stub(load_core, stack)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gatehook-bench-")))
        port = free_port()
        settings = write_settings(folder, port, f"http://127.0.0.1:{stub.port}", accounts=False)
        settings.write_text(settings.read_text().replace("[server]", "[server]\nworkers = 2", 1))
        command = [gatehook_command(), "serve", "--config", str(settings)]
        server = started("gatehook", command, port, core, stack, folder)
        traffic = Traffic(port, time.monotonic() + seconds)
        asyncio.run(load(traffic, clients, lambda: reloads(settings, server, seconds)))
    print(f"answered: {dict(traffic.answered)}; failed: {len(traffic.failed)}")
    print(*traffic.failed[:20], sep="\n")
    return 1 if traffic.failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    sys.exit(main(options.seconds, options.clients))
