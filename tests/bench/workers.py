"""What a second worker is worth: `python tests/bench/workers.py [--share 35] [--seconds 2] [--rounds 5]`.

"Where two cores are free" is hard to have: load and stub take cores too. So each worker gets the same share of a core,
in the case of one worker as in that of two, by a control group's CPU quota (cgroup v1 or v2; needs root), and what is
left of the machine's cores is more than load and stub need. Then two workers have twice what one has, and the ratio
shows what they cost each other: locks, the database, memory that they share. The share is of any core; where a worker
holds a lock when its share of a period is used up, the other one waits for it longer than it would on a core of its
own, so the figures rather flatter one worker.

Prints requests per second, plain, translated to Anthropic's dialect, and with accounts. A ratio of less than 1.7 is a
failure.
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench.contestants import (
    ANTHROPIC_MODEL,
    KEY,
    MODEL,
    Contestant,
    create_key,
    gatehook_command,
    start_stub,
    started,
    write_settings,
)
from tests.bench.host import Process, StartError, family, free_port
from tests.bench.load import Shape, measure

LEAST = 1.7
CONNECTIONS = 32
PERIOD = 10_000  # microseconds: a share is used up, and given anew, a hundred times a second
ROOTS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))


class Group:
    """A control group whose members together get a share of a core; the stack ends it, and frees who is in it."""

    def __init__(self, root: Path, name: str, share: float, stack: ExitStack) -> None:
        self._root, self._folder = root, root / name
        self._folder.mkdir()
        stack.callback(self._end)
        quota = str(int(share * PERIOD))
        if (self._folder / "cpu.max").exists():
            (self._folder / "cpu.max").write_text(f"{quota} {PERIOD}")
        else:
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self._folder / "cpu.cfs_quota_us").write_text(quota)

    def take(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def _end(self) -> None:
        for pid in (self._folder / "cgroup.procs").read_text().split():
            (self._root / "cgroup.procs").write_text(pid)
        self._folder.rmdir()


def hierarchy() -> Path:
    """Where groups with a quota can be made.

    Raises:
        StartError: nowhere.
    """
    for root in ROOTS:
        quota = root / "cpu.cfs_quota_us", root / "cgroup.subtree_control"
        if not any(one.exists() for one in quota) or not os.access(root, os.W_OK):
            continue
        if quota[1].exists() and "cpu" not in quota[1].read_text().split():
            quota[1].write_text("+cpu")
        return root
    raise StartError("this benchmark gives each worker a share of a core: it needs root, and cgroups with CPU quotas")


def children(parent: int, count: int) -> list[int]:
    """The processes that it has started, once all of them are there.

    Raises:
        StartError: they do not come.
    """
    for _ in range(200):
        found = [pid for pid in family(parent) if pid != parent]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise StartError(f"{count} workers were to be started, and there are {len(found)} processes")


def serve(workers: int, share: float, stub: Process, stack: ExitStack, *, accounts: bool) -> Contestant:
    """A gateway with so many workers, each with its share."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="gatehook-bench-")))
    port = free_port()
    settings = write_settings(folder, port, f"http://127.0.0.1:{stub.port}", accounts=accounts)
    settings.write_text(settings.read_text().replace("[server]", f"[server]\nworkers = {workers}", 1))
    key = create_key(settings) if accounts else KEY
    command = [gatehook_command(), "serve", "--config", str(settings)]
    process = started("gatehook", command, port, 0, stack, folder)
    os.sched_setaffinity(process.pid, CORES)
    for number, pid in enumerate(children(process.pid, workers)):
        os.sched_setaffinity(pid, CORES)
        Group(hierarchy(), f"gatehook-bench-{process.pid}-{number}", share, stack).take(pid)
    return Contestant(f"{workers} workers", ("127.0.0.1", port), process, key)


CORES = os.sched_getaffinity(0)


def main(share: float, seconds: float, rounds: int) -> int:
    """Run it; gives the exit status."""
    good = True
    with ExitStack() as stack:
        stub = start_stub(max(CORES), stack)
        os.sched_setaffinity(stub.pid, CORES)
        for name, model, accounts in (
            ("plain", MODEL, False),
            ("anthropic", ANTHROPIC_MODEL, False),
            ("accounts", MODEL, True),
        ):
            with ExitStack() as both:
                rivals = [serve(workers, share, stub, both, accounts=accounts) for workers in (1, 2)]
                rates: list[list[float]] = [[], []]
                used: list[list[float]] = [[], []]
                for turn in range(rounds):
                    for which in (0, 1) if turn % 2 else (1, 0):
                        rival = rivals[which]
                        shape = Shape(CONNECTIONS, seconds, warm=seconds / 5)
                        sample = measure(rival.address, [rival.request(model, stream=False)], shape, rival.cpu)
                        rates[which].append(sample.count / sample.elapsed)
                        used[which].append(sample.cpu / sample.elapsed)
            ratio = statistics.median([two / one for one, two in zip(*rates, strict=True)])
            one, two = (
                f"{statistics.median(rate):6.0f} requests/s with {statistics.median(cores):.2f} cores"
                for rate, cores in zip(rates, used, strict=True)
            )
            print(f"{name:10} 1 worker {one}   2 workers {two}   ratio {ratio:.2f}", flush=True)
            good = good and ratio >= LEAST
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=35, help="per cent of a core for each worker")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sys.exit(main(options.share / 100, options.seconds, options.rounds))
