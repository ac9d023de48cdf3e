"""`make bench`: direct, a bare aiohttp proxy and Gatehook, side by side in front of a local stub upstream.

One core for each contestant's processes, another for the stub and this load generator. Samples are interleaved, round
after round, and compared within their round. CPU is the scheduler's own account of all processes of a contestant.

Stub and load generator are Python, too: what they bear together is the row of `direct`. A contestant that comes near it
is held up by them, and its requests/s say less than it can do; its CPU per request is what counts.

    python tests/bench/run.py                       five minutes, the soak at the end included
    python tests/bench/run.py --quick               less than a minute, no soak: is it still sane?
    python tests/bench/run.py --rounds 0            the soak alone: memory after 10,000 to 100,000 requests
    python tests/bench/run.py --peers all           with those gateways of others that are installed
    python tests/bench/run.py --peers nginx,tensorzero=/opt/tensorzero/bin/python,litellm=/opt/litellm/bin/litellm
    python tests/bench/run.py --versus other=http://127.0.0.1:4000      add a server that is already running
"""

import argparse
import json
import platform
import signal
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench import peers, report
from tests.bench.contestants import (
    ANTHROPIC_MODEL,
    FIRST_MODEL,
    GEMINI_MODEL,
    KNOWN,
    MODEL,
    OURS,
    PACED_MODEL,
    SLOW_MODEL,
    TLS_MODEL,
    Contestant,
    start,
    start_peer,
    start_stub,
    start_tls_stub,
    versus,
)
from tests.bench.host import StartError, busy_seconds, cores, cpu_seconds, memory_bytes, pin
from tests.bench.load import EVENTS, LoadError, Request, Sample, Shape, measure

FIRST_EVENTS = 8  # of FIRST_MODEL
SLOW = ("litellm",)  # whose streams, and requests at a rate, would not end in time
SOAK_STEPS = (1_000, 10_000, 20_000, 50_000, 100_000)
SOAK_MIX = 20  # one request in so many is a stream
NEAR = 0.6  # of the requests/s of `direct`: above it, stub and load generator take part in what is measured
FOREIGN_LIMIT = 0.15  # cores used by others above which the figures deserve a warning


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load and what it asks for."""

    name: str
    shape: Shape
    stream: bool = False
    model: str = MODEL
    events: int = EVENTS
    only: Collection[str] = ()
    """The contestants that take part; all, if none is named."""
    but: Collection[str] = ()
    """Those that do not: they would not end in time."""


def scenarios(seconds: float, rate: float) -> list[Scenario]:
    warm = min(0.3, seconds / 3)
    return [
        Scenario("c1", Shape(1, seconds, warm=warm)),
        Scenario("c16", Shape(16, seconds, warm=warm)),
        Scenario("c64", Shape(64, seconds, warm=warm)),
        Scenario("rate", Shape(64, seconds * 2, rate=rate, warm=warm), but=SLOW),
        Scenario("burst", Shape(16, seconds, warm=warm), stream=True),
        Scenario("paced", Shape(64, seconds, spread=0.1), stream=True, model=PACED_MODEL, but=SLOW),
        Scenario("first", Shape(2, seconds), stream=True, model=FIRST_MODEL, events=FIRST_EVENTS),
        Scenario("crowd", Shape(500, seconds, spread=0.5), stream=True, model=SLOW_MODEL, only=("bare", *OURS)),
        Scenario("tls", Shape(16, seconds, warm=warm), model=TLS_MODEL, only=("bare", *OURS)),
        Scenario("anthropic", Shape(16, seconds, warm=warm), model=ANTHROPIC_MODEL, only=OURS),
        Scenario("gemini", Shape(16, seconds, warm=warm), model=GEMINI_MODEL, only=OURS),
    ]


class Bench:
    """One run: the stub, the contestants, the rounds, the soak."""

    def __init__(self, args: argparse.Namespace, stack: ExitStack) -> None:
        self._args = args
        self._stack = stack
        self._core, self._load_core = cores()
        pin(self._load_core)
        self._stub = start_stub(self._load_core, stack)
        self._tls = start_tls_stub(self._load_core, stack)
        self.contestants = [*map(self._start, args.contestants), *args.versus, *map(self._peer, args.peers.items())]
        self.results = report.Results([contestant.name for contestant in self.contestants], args.rate)
        self.foreign: list[float] = []

    def _start(self, name: str) -> Contestant:
        return start(name, self._stub, self._tls, self._core, self._stack)

    def _peer(self, peer: tuple[str, str]) -> Contestant:
        return start_peer(*peer, self._stub, self._core, self._stack)

    @property
    def where(self) -> str:
        if self._core == self._load_core:
            return (
                "ONE core for contestants, stub and load together: requests/s and latency mean little, CPU figures hold"
            )
        return f"contestants on core {self._core}, stub and load on core {self._load_core}"

    def rounds(self) -> None:
        """Every scenario on every contestant, in turn, another one first each round."""
        plan = scenarios(self._args.seconds, self._args.rate)
        for index in range(self._args.rounds):
            shift = index % len(self.contestants)
            order = self.contestants[shift:] + self.contestants[:shift]
            began, busy, ours = time.monotonic(), busy_seconds(), self._own_cpu()
            for scenario in plan:
                for contestant in order:
                    if contestant.name not in scenario.but and (not scenario.only or contestant.name in scenario.only):
                        self._sample(index, scenario, contestant)
            used = busy_seconds() - busy - (self._own_cpu() - ours)
            self.foreign.append(max(0.0, used / (time.monotonic() - began)))

    def _own_cpu(self) -> float:
        servers = [contestant.process.pid for contestant in self.contestants if contestant.process]
        return time.process_time() + sum(map(cpu_seconds, [self._stub.pid, *servers]))

    def _sample(self, index: int, scenario: Scenario, contestant: Contestant) -> None:
        request = contestant.request(scenario.model, stream=scenario.stream, events=scenario.events)
        sample = self._measure(scenario.name, contestant, [request], scenario.shape)
        self.results.add(scenario.name, contestant.name, sample)
        progress(
            f"round {index + 1}/{self._args.rounds}  {scenario.name:9} {contestant.name:10}"
            f" {report.per_second(sample):10,.1f}/s  p50 {report.p50(sample):10,.0f} us"
            f"  CPU {report.show(report.cpu_each(sample)):>8} us"
        )

    def _measure(self, load: str, contestant: Contestant, requests: list[Request], shape: Shape) -> Sample:
        try:
            return measure(contestant.address, requests, shape, contestant.cpu)
        except LoadError as error:
            said = contestant.process.output() if contestant.process else ""
            raise LoadError(f"{contestant.name}, {load}: {error}\n{said}".rstrip()) from error

    def soak(self, name: str) -> None:
        """A fresh process, many requests, and what memory it holds after each step."""
        contestant = self._start(name)
        assert contestant.process is not None
        plain, stream = (contestant.request(MODEL, stream=stream) for stream in (False, True))
        requests = [plain] * (SOAK_MIX - 1) + [stream]
        readings = self.results.memory.setdefault(name, [(0, memory_bytes(contestant.process.pid))])
        for count in SOAK_STEPS:
            if count > self._args.soak:
                break
            shape = Shape(16, 600.0, quota=count - readings[-1][0])
            sample = self._measure("soak", contestant, requests, shape)
            readings.append((count, memory_bytes(contestant.process.pid)))
            progress(
                f"soak  {name}  {count:9,} requests  {report.per_second(sample):8,.0f}/s"
                f"  memory {readings[-1][1] / report.MEGA:6.1f} MB"
            )


def progress(line: str) -> None:
    print(line, flush=True)


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.5 s, no soak")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each sample; default 1.0")
    parser.add_argument("--rate", type=float, default=500.0, help="requests/s for the latency figures; default 500")
    parser.add_argument("--soak", type=int, metavar="N", help="requests of the soak; default 100000, 0 for none")
    parser.add_argument("--contestants", default=",".join(KNOWN), help="default: %(default)s")
    parser.add_argument("--versus", action="append", default=[], metavar="NAME=URL", help="another server, already up")
    parser.add_argument(
        "--peers", default="", metavar="NAMES", help="all that are installed, or NAME or NAME=PROGRAM by commas"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an aim is missed")
    args = parser.parse_args()
    args.rounds = args.rounds if args.rounds is not None else 2 if args.quick else 5
    args.seconds = args.seconds or (0.5 if args.quick else 1.0)
    args.soak = args.soak if args.soak is not None else 0 if args.quick else SOAK_STEPS[-1]
    args.contestants = args.contestants.split(",")
    if unknown := set(args.contestants) - set(KNOWN):
        parser.error(f"unknown contestant {', '.join(sorted(unknown))}: there are {', '.join(KNOWN)}")
    try:
        args.versus = [versus(text) for text in args.versus]
        args.peers = peers.chosen(args.peers)
    except ValueError as error:
        parser.error(str(error))
    return args


def conclude(bench: Bench, subject: str) -> bool:
    """Print what was found; are all aims met?"""
    results = bench.results
    print()
    if bench.foreign:
        print(report.table(results), end="\n\n")
        print(f"Medians of {len(bench.foreign)} rounds; ratios are medians of the ratios within a round.")
        print(f"Python {platform.python_version()}, {bench.where}.")
        if near := report.near_direct(results, NEAR):
            print(f"Held up by stub and load generator, so that requests/s say too little: {', '.join(near)}.")
        if (foreign := max(bench.foreign)) > FOREIGN_LIMIT:
            print(f"NOISY: other processes used up to {foreign:.2f} of a core; rates and latencies suffer most.")
        print()
    if results.memory:
        print(report.memory_table(results), end="\n\n")
    aims = report.aims(results, subject)
    width = max((len(aim.text) for aim in aims), default=0)
    for aim in aims:
        print(f"{'ok  ' if aim.holds else 'MISS'}  {aim.text:{width}}  {aim.found}")
    return all(aim.holds for aim in aims)


def write_json(path: Path, bench: Bench) -> None:
    about = {"python": platform.python_version(), "kernel": platform.release(), "cores": bench.where}
    document = {"about": about, "foreign_cores": bench.foreign, "contestants": report.summary(bench.results)}
    path.write_text(json.dumps(document, indent=2) + "\n")


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    subject = "gatehook" if "gatehook" in args.contestants else "bare"
    try:
        with ExitStack() as stack:
            bench = Bench(args, stack)
            progress(bench.where)
            bench.rounds()
            if args.soak and subject in args.contestants:
                bench.soak(subject)
            held = conclude(bench, subject)
            if args.json:
                write_json(args.json, bench)
    except (LoadError, StartError) as error:
        print(f"benchmark failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if held or not args.strict else 1


if __name__ == "__main__":
    sys.exit(main())
