"""How many threads a model has where nobody says, and where they run: containers have fewer cores than machines."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatehook_plugins.vendor_gguf.engine.cores import cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, ALL),
        ({"cpu.max": "max 100000"}, ALL),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, min(2, ALL)),
        ({"cpu.max": "99999999 100000"}, ALL),
        ({"cpu.max": "nonsense"}, ALL),
        ({"cpu.max": "100000 0"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_the_quota_of_a_container_counts_as_its_cores(tmp_path: Path, files: dict[str, str], wanted: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cores(tmp_path) == wanted


def places(process: int) -> dict[int, set[int]]:
    """The cores that each thread of a process may use."""
    threads = [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]
    return {thread: os.sched_getaffinity(thread) for thread in threads}


@pytest.mark.skipif(ALL == 1, reason="there is one core, where all threads are in any case")
@pytest.mark.parametrize("threads", [ALL, ALL - 1])
async def test_threads_that_take_all_cores_stay_where_they_are_and_others_may_move(
    begin_engine: Callable[..., Any], random_model: Path, threads: int
) -> None:
    async with begin_engine(random_model, threads=threads) as engine:
        await engine.post("completions", {"prompt": "a", "max_tokens": 2})
        allowed = places(engine.process.pid)
    assert len(allowed[engine.process.pid]) == ALL
    bound = {frozenset(own) for own in allowed.values() if len(own) == 1}
    assert len(bound) == (ALL if threads == ALL else 0)
