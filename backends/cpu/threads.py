"""How many threads this process should have."""

import os
from pathlib import Path


def physical_cores() -> int | None:
    """Cores, not counting the second thread of one; None where the system does not say."""
    cores = set()
    for siblings in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list"):
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            return None
    return len(cores) or None


def allowed_cores() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota() -> int | None:
    """Processors that the control group grants, rounded up; None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        granted = int((folder / "cpu.cfs_quota_us").read_text())
        return None if granted <= 0 else max(1, -(-granted // int((folder / "cpu.cfs_period_us").read_text())))
    except (OSError, ValueError):
        return None


def default_threads() -> int:
    """The smallest of physical cores, allowed processors and the control group's quota."""
    return min(limit for limit in (physical_cores(), allowed_cores(), cgroup_quota()) if limit is not None)
