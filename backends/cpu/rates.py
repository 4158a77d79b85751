"""What this machine does, measured once in about a tenth of a second and kept on disk."""

import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.backends.plan import Rates

if TYPE_CHECKING:
    from fusedmlp.backends.cpu.backend import CpuBackend

WIDTH, PRODUCTS, MEETINGS = 256, 20, 1000
ATTEMPTS, ENOUGH, PAUSE = 5, 0.8, 0.1  # s between them; this share of one core's rate for each thread is enough
LENGTH, SUMS = 4096, 2000  # two rows of so many stay in the first-level cache
_FLOAT32 = np.dtype(np.float32)


def cache_folder() -> Path:
    """Where the library keeps what it measured: FUSEDMLP_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("FUSEDMLP_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusedmlp"


def _key(backend: "CpuBackend") -> str:
    return f"{backend.describe()}, {os.cpu_count()} processors, fusedmlp {version('fusedmlp')}"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads((cache_folder() / "rates.json").read_text())
    except (OSError, ValueError, RuntimeError):  # no file, a broken one, no home
        return {}
    return kept if isinstance(kept, dict) else {}


def kept_rates(backend: "CpuBackend") -> Rates | None:
    """The rates on disk for this processor and number of threads."""
    try:
        return Rates(**_kept()[_key(backend)])
    except (KeyError, TypeError):
        return None


def measured_rates(backend: "CpuBackend") -> Rates:
    """The rates measured now, and kept on disk where that can be written."""
    rates = _undisturbed(backend)
    try:
        path = cache_folder() / "rates.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(_kept() | {_key(backend): vars(rates)}, indent=1))
        whole.replace(path)  # so that a reader finds the old file or the new one
    except (OSError, RuntimeError):
        pass  # costs a measurement in each process, and nothing else
    return rates


def _undisturbed(backend: "CpuBackend") -> Rates:
    """Of some measurements the one in which the threads helped most: where another program has a core meanwhile, all
    but one of them would look worthless, and would stay unused for ever."""
    measured = [measure(backend)]
    while measured[-1].scaling < ENOUGH * backend.threads and len(measured) < ATTEMPTS:
        time.sleep(PAUSE)
        measured.append(measure(backend))
    return max(measured, key=lambda rates: rates.scaling)


def measure(backend: "CpuBackend") -> Rates:
    """Products of 256 x 256 x 256 on one thread, and on all by rows; sums of rows; barriers in a row; a call that does
    nothing; a copy of 16 MiB, which passes through the last cache as one core's output does on its way to another."""
    threads = backend.threads
    a, b, z = (np.ones((WIDTH, WIDTH), np.float32) for _ in range(3))

    def seconds(workers: int, body: str, *arguments: Any) -> float:
        return _best(lambda: backend.launch(body, _FLOAT32, workers, *arguments))

    handover = seconds(threads, "meet", 0)
    barrier = max(1e-7, (seconds(threads, "meet", MEETINGS) - handover) / MEETINGS)
    alone = seconds(1, "multiply", a, b, z, PRODUCTS) / PRODUCTS
    together = max(1e-9, seconds(threads, "multiply", a, b, z, PRODUCTS) - handover) / PRODUCTS
    rows = np.zeros((2, LENGTH), np.float32)
    adding = seconds(1, "add", *rows, SUMS) / SUMS
    source = np.ones(4 << 20, np.float32)
    target = np.empty_like(source)
    copy = _best(lambda: np.copyto(target, source))
    return Rates(
        flops=2.0 * WIDTH**3 / alone,
        elements=LENGTH / adding,
        scaling=min(alone / together, threads),
        barrier=barrier,
        handover=handover,
        transfer=source.nbytes / copy,
    )


def _best(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of five calls, after one to warm up."""
    call()
    return min(_timed(call) for _ in range(5))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
