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


def measured(backend: "CpuBackend") -> Rates:
    """The rates on disk for this processor and number of threads, or those measured now and kept there."""
    key = f"{backend.describe()}, {os.cpu_count()} processors"
    try:
        path = cache_folder() / "rates.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError, RuntimeError):
        path, kept = None, {}
    if key in kept:
        return Rates(**kept[key])
    rates = measure(backend)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(f".{os.getpid()}")
            whole.write_text(json.dumps(kept | {key: vars(rates)}, indent=1))
            whole.replace(path)
        except OSError:
            pass  # a folder that cannot be written costs a measurement in each process, and nothing else
    return rates


def measure(backend: "CpuBackend") -> Rates:
    """Products of 256 x 256 x 256 on one core; barriers of a chain of one-unit layers; a call of no step; a copy of
    16 MiB, which passes through the last cache as one core's output does on its way to another."""
    width, layers = 256, 50
    product = _runner(backend, Network((width, width), (identity,), False), Plan(1, ("out",)), width)
    seconds = _best(product, STEPS) / STEPS
    chain = Network((1,) * (layers + 1), (identity,) * layers, False)
    meet = _runner(backend, chain, Plan(backend.threads, ("out",) * layers), 1)
    handover = _best(meet, 0)
    barrier = max(1e-7, (_best(meet, STEPS) - handover) / (STEPS * layers))
    source = np.ones(4 << 20, np.float32)
    target = np.empty_like(source)
    copy = min(_timed(lambda: np.copyto(target, source)) for _ in range(5))
    return Rates(2.0 * width**3 / seconds, barrier, handover, source.nbytes / copy)


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
