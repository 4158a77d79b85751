"""What the device is, and its two ceilings: bytes copied a second, and floating-point operations a second."""

import subprocess
from typing import Any

import numpy as np

from fusedmlp.benchmarks.explore import kernels
from fusedmlp.benchmarks.explore.clocks import clock_for
from fusedmlp.benchmarks.explore.gpu import REPETITIONS, Gpu
from fusedmlp.benchmarks.explore.notebook import Notebook

COPIED_BYTES = 2 << 30  # far beyond any L2
RANDOM_BYTES = 64 << 20  # of different data
FMA_THREADS, FMA_BLOCKS = 256, 8  # blocks a multiprocessor: all the threads that it holds
FMA_ROUNDS = 2_000
PRODUCT_SIZE = 8192
FACTS = (
    "multiProcessorCount",
    "l2CacheSize",
    "totalGlobalMem",
    "sharedMemPerBlockOptin",
    "clockRate",
    "major",
    "minor",
)
# By name: the dtype, what torch.set_float32_matmul_precision gets, and the allowed relative error of a row.
PRODUCTS = {
    "float32": ("float32", "highest", 1e-5),
    "tf32": ("float32", "high", 2e-3),
    "bf16": ("bfloat16", "highest", 1e-2),
}


def facts(notes: Notebook) -> None:
    """The device's and the driver's names for themselves."""
    import cupy

    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    notes.found("name", properties["name"].decode())
    notes.found("facts", ", ".join(f"{name} {properties[name]}" for name in FACTS if name in properties))
    notes.found("CUDA", f"driver serves {runtime.driverGetVersion()}, runtime is {runtime.runtimeGetVersion()}")


def driver(notes: Notebook) -> None:
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    version, *more = (part.strip() for part in said.stdout.splitlines()[0].split(","))
    notes.found("driver", version)
    notes.found("limits", f"multiprocessors' clock and power: {', '.join(more)}")


def copy(notes: Notebook, gpu: Gpu, size: int = COPIED_BYTES) -> None:
    """Read and written bytes both count."""
    block = np.random.default_rng(1).integers(0, 2**31, min(size, RANDOM_BYTES) // 4, dtype=np.int32)
    source, target = gpu.empty(size // 4, np.int32), gpu.empty(size // 4, np.int32)
    uploaded = gpu.array(block)
    for start in range(0, size // 4, block.size):
        gpu.copy(source[start : start + block.size], uploaded)
    gpu.fill(target)
    seconds = gpu.times(lambda: gpu.copy(target, source))
    wrong = "" if np.array_equal(gpu.host(target[-block.size :]), block) else "the copy differs"
    notes.measured("copy, device to device", "TB/s", [2 * size / taken * 1e-12 for taken in seconds], wrong)


def fma_rate(notes: Notebook, gpu: Gpu, rounds: int = FMA_ROUNDS) -> None:
    """Operations of a hand-written kernel: an FMA counts as two."""
    blocks = gpu.multiprocessors * FMA_BLOCKS
    threads = blocks * FMA_THREADS
    starts = np.random.default_rng(2).standard_normal(threads, dtype=np.float32)
    factor, term = np.float32(0.75), np.float32(0.3)
    given, sums = gpu.array(starts), gpu.empty(threads)
    kernel = gpu.configured("fma", blocks, FMA_THREADS)

    gpu.fill(sums, 0xFF)
    kernel(given, 1, factor, term, sums)
    faded = float(factor) ** kernels.FMA_UNROLLED
    settled = float(term) * (1 - faded) / (1 - float(factor))
    each = starts.astype(np.float64)[:, None] + np.arange(kernels.FMA_CHAINS)
    error = np.abs(gpu.host(sums) - (each * faded + settled).sum(1)).max()
    wrong = "" if error < 1e-4 else f"off by {error:.1e}"

    seconds = gpu.times(lambda: kernel(given, rounds, factor, term, sums))
    operations = 2.0 * kernels.FMA_CHAINS * kernels.FMA_UNROLLED * rounds * threads
    notes.measured("float32 FMA, Numba kernel", "TFLOP/s", [operations / taken * 1e-12 for taken in seconds], wrong)


def product(notes: Notebook, name: str, size: int, device: str) -> None:
    """A square product by PyTorch, checked in a few rows against float64."""
    import torch

    dtype, precision, allowed = PRODUCTS[name]
    torch.set_float32_matmul_precision(precision)
    made: dict[str, Any] = {"device": device, "dtype": getattr(torch, dtype)}
    torch.manual_seed(3)
    a, b = torch.randn(size, size, **made), torch.randn(size, size, **made)
    out = torch.full_like(a, torch.nan)
    torch.matmul(a, b, out=out)
    expected = a[:4].double() @ b.double()
    error = float((out[:4].double() - expected).norm() / expected.norm())
    wrong = "" if error <= allowed else f"relative error {error:.1e}"
    seconds = clock_for(device).times(lambda: torch.matmul(a, b, out=out), REPETITIONS)
    rates = [2 * size**3 / taken * 1e-12 for taken in seconds]
    notes.measured(f"product {size}³ by PyTorch: {name}", "TFLOP/s", rates, wrong, f"relative error {error:.1e}")


def explore(notes: Notebook, gpu: Gpu | None = None, device: str = "cuda", size: int = PRODUCT_SIZE) -> None:
    notes.attempt("facts", facts, notes)
    notes.attempt("driver", driver, notes)
    gpu = gpu or Gpu()
    notes.attempt("copy, device to device", copy, notes, gpu)
    notes.attempt("float32 FMA, Numba kernel", fma_rate, notes, gpu)
    for name in PRODUCTS:
        notes.attempt(f"product by PyTorch: {name}", product, notes, name, size, device)
