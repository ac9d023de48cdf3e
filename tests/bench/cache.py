"""What a hit of the cache is worth: `python tests/bench/cache.py [--seconds 3] [--rounds 5]`.

Hits and misses of one gateway, plain and streamed, in turns, on 16 connections in front of the local stub. The misses
are distinct requests, more than the cache holds: each is looked for, stored, and pushes another one out. Prints
requests per second, the median of the rounds, and their ratio: with a vendor that answers in no time, where a hit saves
only what the gateway itself does, and with one that takes 10 ms. Less than 3 is a failure. Beside them stands what each
costs the gateway in CPU time, for one thing bounds what the rates can show: stub and load share the other core, and
a miss takes both.
"""

import argparse
import http.client
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench.contestants import KEY, MODEL, PACED_MODEL, gatehook_command, start_stub, started, write_settings
from tests.bench.host import cores, cpu_seconds, free_port, pin
from tests.bench.load import Request, Shape, chat_request, measure

LEAST = 3.0
DISTINCT = 2_000
SCENARIOS = (
    ("plain, no time", MODEL, False),
    ("streamed, no time", MODEL, True),
    ("plain, 10 ms", PACED_MODEL, False),
    ("streamed, 10 ms each", PACED_MODEL, True),
)
CACHE = '[plugins.cache]\nmax_bytes = "1MB"\nmax_entry = "64KB"\n\n[[models]]'
"""Room for a few hundred answers."""


def another(request: Request, number: int) -> Request:
    """A request of the same length, and the same for the same number only."""
    return Request(request.raw.replace(b"last week", b"%09d" % number), request.events)


def mark(port: int, request: Request) -> str:
    """What X-Cache says of one request."""
    body = request.raw.partition(b"\r\n\r\n")[2]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.getheader("X-Cache", "")


def main(seconds: float, rounds: int) -> int:
    """Run it; gives the exit status."""
    with ExitStack() as stack:
        core, load_core = cores()
        pin(load_core)
        stub = start_stub(load_core, stack)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gatehook-bench-")))
        port = free_port()
        settings = write_settings(folder, port, f"http://127.0.0.1:{stub.port}", accounts=False)
        settings.write_text(settings.read_text().replace("[[models]]", CACHE, 1))
        command = [gatehook_command(), "serve", "--config", str(settings)]
        server = started("gatehook", command, port, core, stack, folder)
        good = True
        for name, model, stream in SCENARIOS:
            request = chat_request(f"127.0.0.1:{port}", KEY, model, stream=stream)
            loads = {"miss": [another(request, number) for number in range(DISTINCT)], "hit": [request]}
            found: dict[str, list[float]] = {"miss": [], "hit": []}
            costs: dict[str, list[float]] = {"miss": [], "hit": []}
            for turn in range(rounds):
                for kind, requests in loads.items():
                    shape = Shape(16, seconds, warm=seconds / 5)
                    sample = measure(("127.0.0.1", port), requests, shape, lambda: cpu_seconds(server.pid))
                    found[kind].append(sample.count / sample.elapsed)
                    costs[kind].append(sample.cpu / sample.count * 1e6)
                    told = mark(port, request if kind == "hit" else another(request, DISTINCT + turn))
                    if told != kind:
                        raise SystemExit(f"{name}: this was to be a {kind}, and is a {told or 'call without a cache'}")
            miss, hit = (statistics.median(found[kind]) for kind in ("miss", "hit"))
            cost = {kind: statistics.median(costs[kind]) for kind in costs}
            print(
                f"{name:20} {miss:7.0f} misses/s {hit:7.0f} hits/s  ratio {hit / miss:.2f}"
                f"   CPU {cost['miss']:6.1f} and {cost['hit']:5.1f} us  ratio {cost['miss'] / cost['hit']:.2f}",
                flush=True,
            )
            good = good and hit >= LEAST * miss
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.exit(main(options.seconds, options.rounds))
