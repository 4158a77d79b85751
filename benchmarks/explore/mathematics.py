"""How Numba compiles exp, tanh and erf of float32: their error, and how many of them the device does."""

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from fusedmlp.benchmarks.explore.gpu import Gpu
from fusedmlp.benchmarks.explore.notebook import Notebook

THREADS, BLOCKS = 256, 8  # blocks a multiprocessor
POINTS = 1 << 22
ROUNDS = 1024
STEP = np.float32(1e-3)
CHECKED_ROUNDS = 4
# By name: the function in float64, and the range in which its result is a normal number that still changes.
FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "exp": (np.exp, -87.0, 88.0),
    "tanh": (np.tanh, -10.0, 10.0),
    "erf": (erf, -4.0, 4.0),
}


def points(low: float, high: float) -> np.ndarray:
    """float32: half of them even over the range, half over the exponents from 2**-60 on, of both signs."""
    count = POINTS // 4
    even = np.linspace(low, high, 2 * count)
    small = np.exp2(np.linspace(-60, np.log2(min(-low, high)), count))
    return np.concatenate([even, small, -small]).astype(np.float32)


def accuracy(notes: Notebook, gpu: Gpu, name: str, kernel: str) -> None:
    """The largest error in units in the last place of the exact result as a float32, and where."""
    exact, low, high = FUNCTIONS[name]
    x = points(low, high)
    given, out = gpu.array(x), gpu.empty(x.size)
    gpu.fill(out, 0xFF)
    gpu.configured(f"values {kernel}", BLOCKS * gpu.multiprocessors, THREADS)(given, out)
    expected = exact(x.astype(np.float64))
    errors = np.abs(gpu.host(out) - expected) / np.spacing(np.abs(expected).astype(np.float32))
    worst = int(np.argmax(errors))  # a NaN, if there is one
    median, high_end = np.percentile(errors, (50, 99))
    summary = f"at most {errors[worst]:.2f} ulp, at {x[worst]:.9g}; median {median:.2f}, 99th percentile {high_end:.2f}"
    notes.found(f"{kernel}: error over [{low:g}, {high:g}]", summary)


def rate(notes: Notebook, gpu: Gpu, name: str, kernel: str) -> None:
    """Calls a second, each with two additions beside it; arguments are standard normal, and move on by STEP."""
    threads = gpu.multiprocessors * BLOCKS * THREADS
    x = np.random.default_rng(4).standard_normal(4 * threads, dtype=np.float32)
    given, sums = gpu.array(x), gpu.empty(threads)
    run = gpu.configured(f"many {kernel}", BLOCKS * gpu.multiprocessors, THREADS)

    gpu.fill(sums, 0xFF)
    run(given, CHECKED_ROUNDS, STEP, sums)
    rows = x.astype(np.float64).reshape(4, threads)
    expected = sum(FUNCTIONS[name][0](rows + k * float(STEP)).sum(0) for k in range(CHECKED_ROUNDS))
    error = float(np.abs(gpu.host(sums) - expected).max() / np.abs(expected).max())
    wrong = "" if error < 1e-3 else f"relative error {error:.1e}"

    seconds = gpu.times(lambda: run(given, ROUNDS, STEP, sums))
    notes.measured(f"{kernel}: rate", "Gop/s", [4e-9 * threads * ROUNDS / taken for taken in seconds], wrong)


def explore(notes: Notebook, gpu: Gpu | None = None) -> None:
    gpu = gpu or Gpu()
    for name in FUNCTIONS:
        for kernel in (name, f"{name} fastmath"):
            notes.attempt(f"{kernel}: error", accuracy, notes, gpu, name, kernel)
            notes.attempt(f"{kernel}: rate", rate, notes, gpu, name, kernel)
