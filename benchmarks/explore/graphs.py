"""Graphs and launches: the gap between two nodes, what a launch costs the host, and what can be captured."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fusedmlp.benchmarks.explore.gpu import Gpu, Work
from fusedmlp.benchmarks.explore.notebook import Notebook

FEW, MANY = 50, 250  # nodes
THREADS = 256
SIZE = 4096  # elements of the small kernels' arrays
ARRAYS = 16
CAPTURED_ROUNDS = 50
STATE = 64  # the counters of barriers


def chain(gpu: Gpu, launch: Callable[[int], None], nodes: int) -> Work:
    """A graph of `nodes` launches, launch(k) being the k-th."""

    def work() -> None:
        for k in range(nodes):
            launch(k)

    return gpu.capture(work)


def empty_nodes(notes: Notebook, gpu: Gpu, blocks: int, name: str) -> None:
    run = gpu.configured("nothing", blocks, THREADS)
    run()
    taken = gpu.slopes(chain(gpu, lambda k: run(), FEW), chain(gpu, lambda k: run(), MANY), MANY - FEW)
    notes.measured(name, "µs", [seconds * 1e6 for seconds in taken])


def dependent_nodes(notes: Notebook, gpu: Gpu, blocks: int, name: str) -> None:
    """Each node adds 1 to what the one before it wrote."""
    start = np.random.default_rng(5).standard_normal(SIZE, dtype=np.float32)
    first = gpu.array(start)
    arrays = [gpu.numba_array(array) for array in (first, gpu.empty(SIZE))]
    run = gpu.configured("advance", blocks, THREADS)

    def launch(k: int) -> None:
        run(arrays[k % 2], arrays[1 - k % 2])

    launch(1)
    short, long = (chain(gpu, launch, nodes) for nodes in (FEW, MANY))
    gpu.copy(first, gpu.array(start))
    short()
    error = float(np.abs(gpu.host(first) - (start + FEW)).max())
    wrong = "" if error < 1e-3 else f"after {FEW} nodes off by {error:.1e}"
    taken = gpu.slopes(short, long, MANY - FEW)
    notes.measured(name, "µs", [seconds * 1e6 for seconds in taken], wrong)


def graph_of_nothing(notes: Notebook, gpu: Gpu, nodes: int, name: str) -> None:
    run = gpu.configured("nothing", 1, THREADS)
    run()
    host_time(notes, gpu, chain(gpu, lambda k: run(), nodes), name)


class Launches:
    """Launches of small kernels in many ways, which leave start + 1 in the last array."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.start = np.random.default_rng(6).standard_normal(SIZE, dtype=np.float32)
        self.arrays = [gpu.array(self.start), *(gpu.empty(SIZE) for _ in range(ARRAYS - 1))]
        self.ours = [gpu.numba_array(array) for array in self.arrays]

    def numba(self, kernel: str, *arguments: Any) -> Work:
        return partial(self.gpu.configured(kernel, 1, THREADS), *arguments)

    def core(self, kernel: str, *arguments: Any) -> Work:
        return partial(self.gpu.core(kernel, 1, THREADS), *self.gpu.flat(*arguments))

    def ways(self) -> dict[str, Callable[[], Work]]:
        """What makes each way ready, by name."""
        gpu, first, last = self.gpu, self.arrays[0], self.arrays[-1]
        two = self.ours[0], self.ours[-1]
        addresses = gpu.address(first), gpu.address(last)
        return {
            "Numba, no argument": lambda: self.numba("nothing"),
            "cuda.core, no argument": lambda: self.core("nothing"),
            "Numba, 2 Numba arrays": lambda: self.numba("advance", *two),
            "Numba, 2 CuPy arrays": lambda: self.numba("advance", first, last),
            f"Numba, {ARRAYS} Numba arrays": lambda: self.numba("sixteen", *self.ours),
            f"Numba, {ARRAYS} CuPy arrays": lambda: self.numba("sixteen", *self.arrays),
            "Numba, configured anew, 2 Numba arrays": lambda: lambda: gpu.configured("advance", 1, THREADS)(*two),
            "cuda.core, 2 addresses and a size": lambda: self.core("through_pointer", *addresses, SIZE),
            "cuda.core, 2 arrays": lambda: self.core("advance", first, last),
            f"cuda.core, {ARRAYS} arrays": lambda: self.core("sixteen", *self.arrays),
        }

    def measure(self, notes: Notebook, ready: Callable[[], Work], name: str) -> None:
        work = ready()
        self.gpu.fill(self.arrays[-1], 0xFF)
        work()
        right = "no argument" in name or np.array_equal(self.gpu.host(self.arrays[-1]), self.start + np.float32(1))
        host_time(notes, self.gpu, work, name, "" if right else "the result is wrong")


def host_time(notes: Notebook, gpu: Gpu, work: Work, name: str, wrong: str = "") -> None:
    notes.measured(name, "µs", [seconds * 1e6 for seconds in gpu.host_times(work)], wrong)


def captured(notes: Notebook, gpu: Gpu, kernel: str, blocks: int, through: str, name: str) -> None:
    """Whether this launch can be captured, and does its work when replayed: the kernel's blocks exchange the number of
    the round between barriers, and the last must be there."""
    state, slots, wrong = (gpu.array(np.zeros(n, np.int32)) for n in (STATE, 2 * blocks, blocks))
    given = CAPTURED_ROUNDS, state, blocks, slots, wrong
    if through == "Numba":
        work = partial(gpu.configured(kernel, blocks, THREADS), *given)
    elif through == "cooperative":
        work = partial(gpu.core(kernel, blocks, THREADS, is_cooperative=True), *gpu.flat(*given))
    else:
        work = partial(gpu.core(kernel, 1, THREADS, cluster=blocks), *gpu.flat(*given))
    work()
    gpu.synchronize()
    try:
        replay = gpu.capture(work)
    except Exception as cause:
        notes.found(name, f"no: {type(cause).__name__}: {' '.join(str(cause).split())}"[:400])
        return
    gpu.fill(slots, 0xFF)
    replay()
    last = gpu.host(slots)[(CAPTURED_ROUNDS - 1) % 2 * blocks :][:blocks]
    done = (last == CAPTURED_ROUNDS - 1).all() and not gpu.host(wrong).any()
    notes.found(name, "yes" if done else "captured without an error, but a replay does not do the work")


def explore(notes: Notebook, gpu: Gpu | None = None) -> None:
    gpu = gpu or Gpu()
    for blocks in (1, gpu.multiprocessors):
        for label, measure in (("empty", empty_nodes), ("dependent", dependent_nodes)):
            name = f"graph node: {label}, {blocks} block{'s' * (blocks > 1)}"
            notes.attempt(name, measure, notes, gpu, blocks, name)
    for nodes in (1, 16, 128):
        name = f"host time of a graph's launch: {nodes} node{'s' * (nodes > 1)}"
        notes.attempt(name, graph_of_nothing, notes, gpu, nodes, name)
    launches = Launches(gpu)
    for way, ready in launches.ways().items():
        name = f"host time of a launch: {way}"
        notes.attempt(name, launches.measure, notes, ready, name)
    everywhere = gpu.multiprocessors
    for name, kernel, blocks, through in (
        ("a cooperative launch by Numba", "exchange grid", everywhere, "Numba"),
        ("a cooperative launch by cuda.core", "exchange grid", everywhere, "cooperative"),
        ("a cluster of 8 by cuda.core", "exchange cluster", 8, "cluster"),
        ("a cluster of 16 by cuda.core", "exchange cluster", 16, "cluster"),
    ):
        name = f"can be captured: {name}"
        notes.attempt(name, captured, notes, gpu, kernel, blocks, through, name)
