"""How many cores this process may use: a container may have fewer than its machine, and no use for more threads."""

import math
import os
from pathlib import Path
from typing import Final

__all__ = ["allowed", "cores"]

_CGROUPS: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 1e9


def cores(cgroups: Path = _CGROUPS) -> int:
    """How many cores' time this process may use, at least 1; a quota is rounded up.

    Args:
        cgroups: where Linux tells the quota of this container.
    """
    return max(1, min(allowed(), math.ceil(_quota(cgroups))))


def allowed() -> int:
    """On how many cores this process may run (its affinity), whatever its quota of their time is."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no Linux
        return os.cpu_count() or 1


def _quota(cgroups: Path) -> float:
    """The quota of a cgroup in cores: CPU time granted per period; `_UNLIMITED` without a limit."""
    try:
        granted, period = (cgroups / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:  # the older version
            granted = (cgroups / "cpu/cpu.cfs_quota_us").read_text("ascii").strip()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text("ascii").strip()
        except (OSError, ValueError):
            return _UNLIMITED
    if not (granted.isdigit() and period.isdigit()) or not int(period):  # "max", or -1
        return _UNLIMITED
    return int(granted) / int(period)
