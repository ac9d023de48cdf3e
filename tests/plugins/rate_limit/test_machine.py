"""What only the store of one machine's workers must do: share between processes, outlive those that die, and grow."""

import asyncio
import contextlib
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gatehook import Limits, Unavailable
from gatehook.awaiting import awaited
from gatehook.testing import serving
from gatehook_plugins.rate_limit.machine import MachineStore
from gatehook_plugins.rate_limit.rules import rules
from gatehook_plugins.rate_limit.store import BUSY, Grant
from gatehook_plugins.rate_limit.table import Record, Table

Workers = Callable[..., MachineStore]

LIMIT = rules("key", "k", Limits(10, 1000, 2))

HAMMER = """
import asyncio, json, sys, time
from pathlib import Path
from gatehook import Limits
from gatehook_plugins.rate_limit.machine import MachineStore
from gatehook_plugins.rate_limit.rules import rules

async def main(folder, number):
    store, limit = MachineStore(), rules("key", "k", Limits(1000, 20_000, 3))
    most, admitted, busy = 0, 0, 0
    async with store.lifespan(Path(folder), number):
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(1500):
            decision = store.gate(limit).admit(10)
            admitted += decision.admitted
            busy += not decision.admitted and decision.waits[2] > 0
            if decision.grant:
                most = max(most, 3 - decision.left[2])
                decision.grant.gate.settle(decision.grant, 1, 15)
            store.gate(rules("key", f"{number}-{turn}", Limits(1))).admit(0)  # the table grows meanwhile
    print(json.dumps([admitted, most, busy]))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def granted(store: MachineStore, limit: Any = LIMIT, tokens: int = 10) -> Grant:
    grant = (await awaited(store.gate(limit).admit(tokens))).grant
    assert grant is not None
    return grant


async def left(store: MachineStore) -> list[int]:
    """What is left, asked with a request that cannot pass."""
    probe = LIMIT + rules("key", "nobody", Limits(0))
    return list((await awaited(store.gate(probe).admit(1))).left[:3])


def test_processes_that_hammer_one_limit_pass_it_exactly(tmp_path: Path) -> None:
    hammers = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for one in hammers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in hammers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    told = [json.loads(one.communicate()[0]) for one in hammers]
    assert [one.returncode for one in hammers] == [0] * 4
    assert sum(admitted for admitted, _, _ in told) == 1000
    assert max(most for _, most, _ in told) <= 3


async def test_workers_share_every_limit(worker: Workers, clock: Any) -> None:
    one, other = worker(clock, 0), worker(clock, 1)
    first = await granted(one)
    await granted(other)
    assert (await awaited(one.gate(LIMIT).admit(10))).waits == [0, 0, BUSY]
    await awaited(first.gate.settle(first, 1, 300))
    assert await left(other) == [8, 690, 1]


async def test_what_a_dead_worker_ran_is_let_go_when_it_is_replaced_and_what_it_used_stays_used(
    worker: Workers, clock: Any
) -> None:
    dead, other = worker(clock, 0), worker(clock, 1)
    await granted(dead)
    await granted(other)
    assert await left(other) == [8, 980, 0]
    worker(clock, 0)
    assert await left(other) == [8, 980, 1]


LEFT_BEHIND = """
import sys
from pathlib import Path
from gatehook import Limits
from gatehook_plugins.rate_limit.machine import MachineStore
from gatehook_plugins.rate_limit.rules import rules

store = MachineStore()
store.open(Path(sys.argv[1]), 1)
for _ in range(2):
    store.gate(rules("key", "k", Limits(concurrent_requests=2))).admit(0)
print("running", flush=True)
sys.stdin.read()
"""


def test_what_ran_in_a_worker_that_died_and_has_no_successor_is_let_go(tmp_path: Path) -> None:
    store, limit = MachineStore(), rules("key", "k", Limits(concurrent_requests=2))
    store.open(tmp_path, 0)
    with subprocess.Popen(
        [sys.executable, "-c", LEFT_BEHIND, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "running\n"
        assert store.gate(limit).admit(0).waits == [BUSY], "it lives"
        other.kill()
        other.wait()
    store._look_again = 0
    decision = store.gate(limit).admit(0)
    assert (decision.admitted, decision.left) == (True, [1])
    store.close()


async def test_a_table_grows_and_loses_nothing(worker: Workers, clock: Any) -> None:
    one, other = worker(clock, 0), worker(clock, 1)
    grants = [await granted(one, rules("key", str(number), Limits(2, 100, 1)), 10) for number in range(1000)]
    assert one.table._capacity >= 4096
    for number, grant in enumerate(grants):
        assert (await awaited(other.gate(rules("key", str(number), Limits(2, 100, 1))).admit(1))).left == [1, 90, 0]
        await awaited(grant.gate.settle(grant, 1, 40))
    assert (await awaited(other.gate(rules("key", "999", Limits(2, 100, 1))).admit(60))).left == [0, 0, 0]


async def test_a_table_that_another_has_taken_the_place_of_is_let_go(worker: Workers, clock: Any) -> None:
    store, gone = worker(clock), []
    gates = []
    for turn in range(5):
        gates.append(store.gate(rules("key", f"idle-{turn}", Limits(5, 100, 1))))
        gates[-1].admit(1)
        gone.append(weakref.ref(store.table._words.obj))
        with store.table as table:
            table._rebuild(0)
    gates[0].admit(1)
    gc.collect()
    assert [one() is None for one in gone] == [True] * 5


async def test_where_there_is_no_room_new_callers_are_refused_and_the_others_served(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = MachineStore(clock)
    async with store.lifespan(tmp_path, 0):
        running = await granted(store)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            for number in range(200):
                with contextlib.suppress(Unavailable):
                    store.gate(rules("key", f"other-{number}", Limits(10, 1000, 2))).admit(1)
            edition = store.table.edition
            new = store.gate(rules("key", "new", Limits(10)))
            for ask in (partial(new.admit, 1), new.peek):
                with pytest.raises(Unavailable, match="rate limits cannot be checked") as caught:
                    ask()
                assert (caught.value.status, caught.value.retry_after) == (503, 1)
            running.gate.settle(running, 1, 300)
            running = await granted(store)
            assert store.table.edition == edition, "nobody opens it again and again"
        assert caplog.text.count("no room for more callers: [Errno 28] No space left on device") == 1
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]  # noqa: PTH208
        running.gate.settle(running, 1, 10)
        assert await left(store) == [8, 690, 2]


async def test_what_is_idle_makes_room(worker: Workers, clock: Any) -> None:
    store, kept = worker(clock), rules("key", "kept", Limits(10, None, 1))
    await granted(store, kept)
    for number in range(3000):
        await awaited(store.gate(rules("key", str(number), Limits(5))).admit(0))
        clock.turn(1)
    assert store.table._capacity == 512
    assert (await awaited(store.gate(kept).admit(1))).left == [10, 0]


async def test_refusals_and_settlements_are_right_long_after(worker: Workers, clock: Any) -> None:
    store = worker(clock)
    grant = await granted(store)
    clock.turn(100_000)
    await awaited(grant.gate.settle(grant, 0, 5))
    assert await left(store) == [10, 1000, 2]


@pytest.mark.parametrize("moment", ["begun", "written"])
def test_a_worker_that_is_killed_while_the_table_is_made_anew_harms_nobody(tmp_path: Path, moment: str) -> None:
    script = f"""
import os, sys
from pathlib import Path
from gatehook_plugins.rate_limit.table import Table
table = Table(Path(sys.argv[1]), lambda record: False)
with table:
    for number in range(300):
        table.records([str(number)])[0][0] = number
    write = table._write
    def killed(capacity, live):
        if {moment!r} == "written":
            write(capacity, live)
        os.kill(os.getpid(), 9)
    table._write = killed
    table.records([str(number) for number in range(1000)])
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    tables = [Table(tmp_path, lambda record: False) for _ in range(2)]
    for table in tables:
        with table:
            (record,) = table.records(["new"])
            record[0] += 1
            assert [one[0] for one in table.records([str(number) for number in range(300)])] == list(range(300))
    with tables[0]:
        assert tables[0].records(["new"])[0][0] == 2
        tables[0].records([f"more {number}" for number in range(2000)])
    with tables[1]:
        assert tables[1].records(["new"])[0][0] == 2
        assert len(list(tables[1].all())) == 2301
    for table in tables:
        table.close()


def test_names_whose_hashes_meet_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path, lambda record: False)
    monkeypatch.setattr(table, "_hash", lambda name: 512 * int(name) - 1)  # one place for all, the last one
    with table:
        for number in range(1, 50):
            table.records([str(number)])[0][0] = number

        def value(record: Record) -> int:
            return record[0]

        assert [value(table.records([str(number)])[0]) for number in range(1, 50)] == list(range(1, 50))
    table.close()


async def test_a_gateway_of_several_workers_counts_so_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = "[server]\nport = 0\nworkers = 3\n[plugins.rate_limit]\nrequests_per_minute = 5\n"
    with caplog.at_level("INFO"):
        async with serving(settings):
            pass
    told = "rate limits are shared by the 3 workers of this machine; set [redis] url to share them between machines"
    assert told in caplog.messages


async def test_what_was_not_used_is_given_back_to_the_other_workers_in_a_moment(worker: Workers, clock: Any) -> None:
    one, other = worker(clock, 0), worker(clock, 1)
    limit = rules("key", "k", Limits(10, 1000))
    spared = await granted(one, limit, 600)
    spared.gate.settle(spared, 1, 100)
    while await left_of(other, limit) != [9, 900]:
        assert await left_of(other, limit) == [9, 400], "never more than there is"
        await asyncio.sleep(0.005)
    unused = await granted(one, limit, 600)
    unused.gate.settle(unused, 0, 0)
    assert await left_of(one, limit) == [9, 900]  # who settled it sees it at once, and so does everybody then
    assert await left_of(other, limit) == [9, 900]


async def left_of(store: MachineStore, limit: Any) -> list[int]:
    probe = limit + rules("key", "nobody", Limits(0))
    return list((await awaited(store.gate(probe).admit(1))).left[:2])


async def test_what_was_used_too_much_and_what_runs_no_more_is_told_at_once(worker: Workers, clock: Any) -> None:
    one, other = worker(clock, 0), worker(clock, 1)
    grant = await granted(one, tokens=10)
    grant.gate.settle(grant, 1, 300)
    assert await left(other) == [9, 700, 2]


async def test_what_is_owed_is_charged_before_a_worker_ends(tmp_path: Path, clock: Any) -> None:
    limit = rules("key", "k", Limits(10, 1000))
    ending, other = MachineStore(clock), MachineStore(clock)
    other.open(tmp_path, 1)
    async with ending.lifespan(tmp_path, 0):
        spared = await granted(ending, limit, 600)
        spared.gate.settle(spared, 1, 100)
    assert await left_of(other, limit) == [9, 900]
    other.close()


STOPPED = """
import os, signal, sys
from pathlib import Path
from gatehook_plugins.rate_limit.table import Table
with Table(Path(sys.argv[1]), lambda record: False):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
print("let go", flush=True)
"""


async def test_a_worker_that_is_stopped_with_the_lock_holds_the_others_up_for_a_moment_only(
    tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = MachineStore(clock)
    store.open(tmp_path, 0)
    running = await granted(store)
    stopped = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPED, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert stopped.stdout is not None
    assert await stopped.stdout.readline() == b"held\n"
    began = time.monotonic()
    with pytest.raises(Unavailable, match="rate limits cannot be checked") as caught:
        store.gate(LIMIT).admit(1)
    assert caught.value.status == 503
    assert time.monotonic() - began >= 1
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(Unavailable):
            store.gate(LIMIT).admit(1)
    running.gate.settle(running, 1, 10)
    assert time.monotonic() - began < 3  # nobody else waits, for a second each
    assert len([one for one in caplog.messages if "a worker that is stopped" in one]) == 1
    stopped.send_signal(signal.SIGCONT)
    assert await stopped.stdout.read() == b"let go\n"
    await stopped.wait()
    assert await left(store) == [9, 990, 2]  # and nothing is lost
    store.close()
