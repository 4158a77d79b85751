"""What a barrier among blocks costs: the grid's, two made by hand, and a cluster's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fusedmlp.benchmarks.explore.gpu import Gpu, Work
from fusedmlp.benchmarks.explore.notebook import Notebook

THREADS = 256
FEW, MANY = 200, 1200
CHECKED = 500  # rounds in which neighbours must have seen each other
BLOCKS = (64, 16)  # and all multiprocessors
CLUSTERS = ((8, 1), (8, 8), (16, 1), (16, 4))  # (blocks a cluster, clusters)
STATE = 64  # counters, in two cache lines


class Meeting:
    """One kind of barrier, among `members` of `blocks` blocks.

    prepare(kernel, *arguments) gives the work of one launch.
    """

    def __init__(self, gpu: Gpu, kind: str, members: int, blocks: int, prepare: Callable[..., Work]) -> None:
        self.gpu, self.kind, self.members, self.blocks, self.prepare = gpu, kind, members, blocks, prepare
        self.state, self.slots, self.wrong = (gpu.empty(n, np.int32) for n in (STATE, 2 * blocks, blocks))

    def fault(self) -> str:
        """What is wrong with what the blocks saw of each other; empty where nothing is."""
        for array, byte in ((self.slots, 0xFF), (self.wrong, 0)):
            self.gpu.fill(array, byte)
        self.rounds("exchange", CHECKED)()
        missed = int(self.gpu.host(self.wrong).sum())
        if missed:
            return f"{missed} of {CHECKED * self.blocks} exchanges saw an old value"
        last = self.gpu.host(self.slots)[(CHECKED - 1) % 2 * self.blocks :][: self.blocks]
        return "" if (last == CHECKED - 1).all() else "not every block finished"

    def rounds(self, kernel: str, count: int) -> Work:
        """A launch of so many rounds of "bare" or "exchange", from a fresh start."""
        more = (self.members, self.slots, self.wrong) if kernel == "exchange" else ()
        run = self.prepare(f"{kernel} {self.kind}", count, self.state, *more)

        def work() -> None:
            self.gpu.fill(self.state)
            run()

        return work

    def measure(self, notes: Notebook, name: str) -> None:
        wrong = self.fault()
        for kernel, what in (("bare", name), ("exchange", f"with a write and a read, {name}")):
            short, long = (self.rounds(kernel, count) for count in (FEW, MANY))
            taken = [seconds * 1e6 for seconds in self.gpu.slopes(short, long, MANY - FEW)]
            notes.measured(what, "µs", taken, wrong)


def by_grid(notes: Notebook, gpu: Gpu, kind: str, blocks: int, name: str) -> None:
    def prepare(kernel: str, *arguments: Any) -> Work:
        return partial(gpu.configured(kernel, blocks, THREADS), *arguments)

    Meeting(gpu, kind, blocks, blocks, prepare).measure(notes, name)


def by_clusters(notes: Notebook, gpu: Gpu, members: int, clusters: int, name: str) -> None:
    """Through cuda.core, which knows clusters."""

    def prepare(kernel: str, *arguments: Any) -> Work:
        return partial(gpu.core(kernel, clusters, THREADS, cluster=members), *gpu.flat(*arguments))

    Meeting(gpu, "cluster", members, members * clusters, prepare).measure(notes, name)


def explore(notes: Notebook, gpu: Gpu | None = None) -> None:
    gpu = gpu or Gpu()
    for members, clusters in CLUSTERS:
        name = f"cluster barrier: {members} blocks, {clusters} cluster{'s' * (clusters > 1)}"
        notes.attempt(name, by_clusters, notes, gpu, members, clusters, name)
    for kind in ("grid", "counter", "generation"):  # a barrier that never opens ends the section: the surest come first
        for blocks in (gpu.multiprocessors, *BLOCKS):
            name = f"{kind} barrier: {blocks} blocks"
            notes.attempt(name, by_grid, notes, gpu, kind, blocks, name)
