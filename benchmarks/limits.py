"""What this machine can reach in this run, with the peers' threads: its FMA rate and its copy bandwidth."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.benchmarks.cases import Case, Column

ACCUMULATORS = 10  # covers latency 4 on 2 ports, and leaves registers for the factors where there are 16
COPY_BYTES = 256 * 2**20  # source and target together, over all threads: above common last caches
REPEATS = 7
FLOAT64_BYTES = 8


@dataclass(frozen=True)
class Limits:
    """FMA rate in FLOP/s (an FMA counts as two) and copy bandwidth in bytes/s (read plus written)."""

    flop_per_second: float
    bytes_per_second: float

    def compute_floor(self, case: Case) -> float:
        """Seconds a step that the matrix products take at the FMA rate."""
        return case.flop / self.flop_per_second

    def traffic_floor(self, case: Case, column: Column) -> float:
        """Seconds a step to copy its bytes in main memory; what stays in a cache can be faster."""
        return case.traffic(column) / self.bytes_per_second


def vector_width() -> int:
    """float32 lanes of the host's widest vector."""
    features = llvmlite.binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


LANES = vector_width()
FMA_NAME = f"llvm.fma.v{LANES}f32"


@intrinsic
def fma_chain(typingctx, count, factor):
    """`count` rounds of independent vector FMAs, one for each accumulator; the sum of one lane of each.

    LLVM IR by hand, because a loop over an array keeps its accumulators in memory.
    """

    def generate(context, builder, signature, arguments):
        count, factor = arguments
        vector = ir.VectorType(ir.FloatType(), LANES)
        lane = ir.Constant(ir.IntType(32), 0)
        splat = builder.insert_element(ir.Constant(vector, ir.Undefined), factor, lane)
        splat = builder.shuffle_vector(splat, splat, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))
        before = builder.block
        body = builder.append_basic_block("body")
        after = builder.append_basic_block("after")
        builder.branch(body)
        builder.position_at_end(body)
        index = builder.phi(ir.IntType(64))
        sums = [builder.phi(vector) for _ in range(ACCUMULATORS)]
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), FMA_NAME)
        updated = [builder.call(fma, (total, splat, splat)) for total in sums]
        following = builder.add(index, ir.Constant(ir.IntType(64), 1))
        index.add_incoming(ir.Constant(ir.IntType(64), 0), before)
        index.add_incoming(following, body)
        for n, (total, new) in enumerate(zip(sums, updated, strict=True)):
            total.add_incoming(ir.Constant(vector, [float(n)] * LANES), before)
            total.add_incoming(new, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        builder.position_at_end(after)
        result = builder.extract_element(updated[0], lane)
        for new in updated[1:]:
            result = builder.fadd(result, builder.extract_element(new, lane))
        return result

    return types.float32(types.int64, types.float32), generate


@njit(nogil=True)
def run_fma_chain(count, factor):
    return fma_chain(count, factor)


def seconds_together(work: Callable[[int], object], threads: int) -> float:
    """Seconds for `threads` threads to run `work(index)` at once; the best of several: this is a limit."""
    gate = Barrier(threads)

    def start(index: int) -> tuple[float, float]:
        gate.wait()
        began = time.perf_counter()
        work(index)
        return began, time.perf_counter()

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            spans = list(pool.map(start, range(threads)))
            best = min(best, max(end for _, end in spans) - min(began for began, _ in spans))
    return best


def measure(threads: int) -> Limits:
    """Measure both limits; about two seconds."""
    rounds = 10_000_000
    factor = np.float32(0.5)  # x / 2 + 1/2 converges to 1: no overflow and no subnormals
    run_fma_chain(1, factor)  # compiled here, before the clock starts
    took = seconds_together(lambda _: run_fma_chain(rounds, factor), threads)
    flop = 2 * LANES * ACCUMULATORS * rounds * threads

    elements = COPY_BYTES // 2 // threads // FLOAT64_BYTES
    sources = [np.ones(elements) for _ in range(threads)]
    targets = [np.zeros(elements) for _ in range(threads)]
    copied = seconds_together(lambda index: np.copyto(targets[index], sources[index]), threads)
    return Limits(flop / took, 2 * elements * FLOAT64_BYTES * threads / copied)
