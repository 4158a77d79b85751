"""How many threads this process should have."""

import os
from collections.abc import Collection
from pathlib import Path


def core_cpus() -> list[int]:
    """A processor's number for each physical core that this process may run on."""
    first: dict[str, int] = {}
    for cpu in sorted(_allowed()):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            first.setdefault(siblings.read_text(), cpu)
        except OSError:  # the system does not say
            first.setdefault(str(cpu), cpu)
    return list(first.values())


def cgroup_quota() -> int | None:
    """Whole processors that the control group grants, at least 1; None without a quota. A part of one more would have
    its thread stopped, and the others wait for it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        granted = int((folder / "cpu.cfs_quota_us").read_text())
        return None if granted <= 0 else max(1, granted // int((folder / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        return None


def default_threads() -> int:
    """The smaller of the physical cores that this process may run on and its control group's quota."""
    return _within_quota(len(core_cpus()))


def most_at_once() -> int:
    """How many threads can run at the same time: as many as this process may use processors, within its quota."""
    return _within_quota(len(_allowed()))


def _allowed() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _within_quota(number: int) -> int:
    quota = cgroup_quota()
    return number if quota is None else min(number, quota)
