"""What this machine does, measured once in about a tenth of a second and kept on disk."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.backends.plan import Plan, Rates
from fusedmlp.kernels.activations import identity
from fusedmlp.kernels.program import Network

if TYPE_CHECKING:
    from fusedmlp.backends.cpu.backend import CpuBackend


STEPS = 20


def cache_folder() -> Path:
    """Where the library keeps what it measured: FUSEDMLP_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("FUSEDMLP_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusedmlp"


def _key(backend: "CpuBackend") -> str:
    return f"{backend.describe()}, {os.cpu_count()} processors"


def _kept() -> dict[str, Any]:
    try:
        return json.loads((cache_folder() / "rates.json").read_text())
    except (OSError, ValueError, RuntimeError):  # no file, a broken one, no home
        return {}


def kept_rates(backend: "CpuBackend") -> Rates | None:
    """The rates on disk for this processor and number of threads."""
    try:
        return Rates(**_kept()[_key(backend)])
    except (KeyError, TypeError):
        return None


def measured_rates(backend: "CpuBackend") -> Rates:
    """The rates measured now, and kept on disk where that can be written."""
    rates = measure(backend)
    try:
        path = cache_folder() / "rates.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(json.dumps(_kept() | {_key(backend): vars(rates)}, indent=1))
        whole.replace(path)  # so that a reader finds the old file or the new one
    except (OSError, RuntimeError):
        pass  # costs a measurement in each process, and nothing else
    return rates


def measure(backend: "CpuBackend") -> Rates:
    """Products of 256 x 256 x 256 on one thread, and on all by rows; barriers of a chain of one-unit layers; a call of
    no step; a copy of 16 MiB, which passes through the last cache as one core's output does on its way to another."""
    width, layers = 256, 50
    square = Network((width, width), (identity,), False)
    alone = _best(_runner(backend, square, Plan(1, ("out",)), width), STEPS) / STEPS
    chain = Network((1,) * (layers + 1), (identity,) * layers, False)
    meet = _runner(backend, chain, Plan(backend.threads, ("out",) * layers), 1)
    handover = _best(meet, 0)
    barrier = max(1e-7, (_best(meet, STEPS) - handover) / (STEPS * layers))
    together = _runner(backend, square, Plan(backend.threads, ("rows",)), width)
    shared = max(1e-9, _best(together, STEPS) - handover) / STEPS
    source = np.ones(4 << 20, np.float32)
    target = np.empty_like(source)
    copy = min(_timed(lambda: np.copyto(target, source)) for _ in range(5))
    return Rates(2.0 * width**3 / alone, min(alone / shared, backend.threads), barrier, handover, source.nbytes / copy)


def _runner(backend: "CpuBackend", network: Network, plan: Plan, batch: int) -> Any:
    executor = backend.executor(network, "float32", plan)
    x = np.ones((batch * STEPS, network.sizes[0]), np.float32)
    return lambda steps: executor._forward(x, batch, steps, plan)


def _best(run: Any, steps: int) -> float:
    run(steps)
    return min(_timed(lambda: run(steps)) for _ in range(5))


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
