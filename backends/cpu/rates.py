"""What this machine does: measured in a tenth of a second, or where it looks poor in one, and kept on disk."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.backends.backend import LINE
from fusedmlp.backends.plan import FAR_BARRIER, FAR_SEAM, FAR_TRANSFER, Rates

if TYPE_CHECKING:
    from fusedmlp.backends.cpu.backend import CpuBackend

WIDTH, PRODUCTS, MEETINGS = 256, 20, 1000
ATTEMPTS, PAUSE = 5, 0.1  # measurements at most, and seconds between them
ENOUGH = 0.8  # the share of one core's rate that each thread must add to end them
MULTIPLIED = 30  # operations of a product in the time of an element's sum, at most: 6 to 10 on AMD EPYC, 105 disturbed
PROCESSES = 10  # that must find the rates of a machine poor, before it is believed to be so
CALLS, LONG = 5, 0.1  # calls that are timed at most, and seconds after which there are no more
ROWS, COLUMNS, WRITES = 512, 128, 200
FASTEST = 1e11  # bytes a second between two caches: what is quicker was hidden behind the sums
SIDE, SUMS = 64, 500  # two such matrices fill the first-level cache, and their rows are as short as a small layer's
_FLOAT32 = np.dtype(np.float32)


def cache_folder() -> Path:
    """Where the library keeps what it measured: FUSEDMLP_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("FUSEDMLP_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusedmlp"


def _key(backend: "CpuBackend") -> str:
    """Whatever a rate depends on: the processor, how many there are, and the bodies that measure it."""
    return f"{backend.describe()}, {os.cpu_count()} processors, sources {backend.sources}"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads((cache_folder() / "rates.json").read_text())
    except (OSError, ValueError, RuntimeError):  # no file, a broken one, no home
        return {}
    return kept if isinstance(kept, dict) else {}


def _found(backend: "CpuBackend") -> tuple[Rates | None, int]:
    """The rates on disk for this processor and number of threads, and how many processes found them poor."""
    try:
        entry = _kept()[_key(backend)]
        return Rates(**{name: float(rate) for name, rate in entry["rates"].items()}), int(entry["poor"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):  # not there, or not ours
        return None, 0


def kept_rates(backend: "CpuBackend") -> Rates | None:
    """The rates on disk for this processor and number of threads."""
    return _found(backend)[0]


def rates_of(backend: "CpuBackend") -> Rates:
    """The rates on disk, or measured now and kept there where that can be written. Poor ones are what this machine
    does, or what another program left of it: the next few processes measure again, and the better of each rate
    counts."""
    known, poor = _found(backend)
    if known is None:
        rates = _undisturbed(backend)
    elif _poor(known, backend) and poor < PROCESSES:
        rates = known.better(measure(backend))
    else:
        return known
    entry = {"rates": vars(rates), "poor": poor + 1 if _poor(rates, backend) else 0}
    try:
        path = cache_folder() / "rates.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(_kept() | {_key(backend): entry}, indent=1))
        whole.replace(path)  # so that a reader finds the old file or the new one
    except (OSError, RuntimeError):
        pass  # costs a measurement in each process, and nothing else
    return rates


def _poor(rates: Rates, backend: "CpuBackend") -> bool:
    """Whether threads look worthless, or one core by itself slow: another program has a core, a virtual machine's cores
    are far apart for a moment, or the machine is so."""
    near = rates.barrier <= FAR_BARRIER and rates.transfer >= FAR_TRANSFER and rates.seam <= FAR_SEAM
    return not near or rates.scaling < ENOUGH * backend.threads_at_once or rates.elements < rates.flops / MULTIPLIED


def _undisturbed(backend: "CpuBackend") -> Rates:
    """The best of each rate, measured again a few times while one is poor."""
    best = measure(backend)
    for _ in range(ATTEMPTS - 1):
        if not _poor(best, backend):
            break
        time.sleep(PAUSE)
        best = best.better(measure(backend))
    return best


def measure(backend: "CpuBackend") -> Rates:
    """Products of 256 x 256 x 256 on one thread, and on all by rows; sums of matrices on one, and on all by rows, by
    columns, and by rows that change hands; barriers in a row; a call that does nothing."""
    threads = backend.threads_at_once
    a, b, z = _zeros(backend, 3, WIDTH, WIDTH)
    small, large = _zeros(backend, 2, SIDE, SIDE), _zeros(backend, 2, ROWS, COLUMNS)

    def seconds(workers: int, body: str, *arguments: Any) -> float:
        return _best(lambda: backend.launch(body, _FLOAT32, workers, *arguments))

    def writing(matrices: np.ndarray, by_columns: bool, turning: int) -> float:
        return seconds(threads, "write", *matrices, by_columns, turning, LINE // matrices.itemsize, WRITES) / WRITES

    handover = seconds(threads, "meet", 0)
    barrier = max(1e-7, (seconds(threads, "meet", MEETINGS) - handover) / MEETINGS)
    alone = seconds(1, "multiply", a, b, z, PRODUCTS) / PRODUCTS
    together = max(1e-9, seconds(threads, "multiply", a, b, z, PRODUCTS) - handover) / PRODUCTS
    handed_on = small[0].nbytes / threads
    return Rates(
        flops=2.0 * WIDTH**3 / alone,
        elements=SIDE**2 / (seconds(1, "add", *small, SUMS) / SUMS),
        scaling=min(alone / together, threads),
        seam=max(0.0, writing(large, True, 0) - writing(large, False, 0)) / ROWS,
        barrier=barrier,
        handover=handover,
        transfer=min(FASTEST, handed_on / max(1e-9, writing(small, False, 1) - writing(small, False, 0))),
    )


def _zeros(backend: "CpuBackend", *shape: int) -> np.ndarray:
    """As aligned as the matrices of a training."""
    made = backend.memory.aligned(int(np.prod(shape)), _FLOAT32)
    made[:] = 0
    return made.reshape(shape)


def _best(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls, after one to warm up: fewer where they take long."""
    call()
    taken = [_timed(call)]
    while len(taken) < CALLS and sum(taken) < LONG:
        taken.append(_timed(call))
    return min(taken)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
