"""How many threads a model has where nobody says: containers have fewer cores than their machines."""

import os
from pathlib import Path

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
