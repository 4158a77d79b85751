"""What a figure was measured on: the processor, its threads, the versions and the commit."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from fusedmlp.backends.cpu.threads import core_cpus

PACKAGES = ("fusedmlp", "numpy", "scipy", "numba", "torch", "jax", "jaxlib", "scikit-learn")
ROOT = Path(__file__).resolve().parent.parent


def in_clone() -> bool:
    """Whether this file lies in a checkout, not among installed packages."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "kernels").is_dir()


def results_folder() -> Path:
    """benchmarks/results of the checkout, or of the current folder when the library is installed."""
    return (ROOT if in_clone() else Path()) / "benchmarks" / "results"


def device_name() -> str:
    """The processor's model and the number of cores that this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = found[1].strip()
    cores = len(core_cpus())
    return f"{model}, {cores} core{'s' * (cores != 1)}"


def slug(name: str) -> str:
    """`name` as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Python's version and that of each package that is installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def lacking(*packages: str) -> str:
    """What to type for those of these that are not installed; empty where all are."""
    gone = [package for package in packages if find_spec(package) is None]
    return f"pip install {' '.join(gone)}" if gone else ""


def commit() -> str | None:
    """The checkout's commit, "-dirty" where files differ from it; None outside a checkout."""
    if not in_clone():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(threads: int) -> dict[str, str]:
    """The variables of a child process: every pool gets `threads` threads, and the checkout is importable."""
    pools = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "FUSEDMLP")
    given = os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in pools}
    given |= {"VECLIB_MAXIMUM_THREADS": str(threads), "NPROC": str(threads)}
    if in_clone():
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return given
