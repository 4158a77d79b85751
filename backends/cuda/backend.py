"""The bodies on a GPU: each launch is one kernel, whose blocks are the workers.

A training goes in one of two ways, as its plan says: one launch interprets the program for as many steps as fit about
50 ms, its blocks meeting at the barriers of the grid; or each instruction is a launch, and many steps of them a graph
(backends/cuda/launches.py).
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice, pairwise
from math import gcd
from typing import Any

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.backends.arrays import Array
from fusedmlp.backends.backend import ELEMENTWISE, LINE, Backend, values
from fusedmlp.backends.call import Call
from fusedmlp.backends.cuda.driver import Driver
from fusedmlp.backends.cuda.kinds import Kind, Shape, rules_among, rules_of
from fusedmlp.backends.cuda.launches import Launches, bare_products
from fusedmlp.backends.cuda.products import BIAS_ALIGNED, MOST_ALIGNED, Product
from fusedmlp.backends.cuda.staging import Staged
from fusedmlp.backends.cuda.words import REQUEST, ROOM, SYNC_LENGTH, UNFINISHED
from fusedmlp.backends.feed import Data, Feed
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels import losses, optimizers
from fusedmlp.kernels.activations import Activation
from fusedmlp.kernels.program import HOME, Network, Program, program
from fusedmlp.kernels.rules import kind

_INT64 = np.dtype(np.int64)

# Sizes of tiles by dtype, the smallest first. The largest one's product and panels take 20 KiB of shared memory; in
# float64 the next larger would need more registers than a thread has.
SHAPES: dict[np.dtype, tuple[Shape, ...]] = {
    np.dtype(np.float32): tuple(Shape(edge, (16, 16), 8) for edge in (16, 32, 64)),
    np.dtype(np.float64): tuple(Shape(edge, (16, 16), 8) for edge in (16, 32)),
}

# From so many multiplications on cuBLASLt makes a product: here every multiprocessor has some 30,000 of them, about
# what a launch takes. An estimate, not yet measured on a device.
PRODUCTS_OF_A_LIBRARY = 1 << 22

# Of a step in one launch: multiplications of a layer's rows by weights at most for each block, some 100 µs of them, and
# bytes of partial sums, which stay in the second-level cache. Estimates, not yet measured on a device.
MULTIPLICATIONS_OF_A_BLOCK = 1 << 21
EXCHANGED_IN_A_STEP = 8 << 20

# Bytes at most that the interpreter's kernel declares for itself, beside which weights are at home.
SHARED_OF_THE_INTERPRETER = 12 << 10

# Bytes of a row in which columns are shared out among blocks: a sector of the second-level cache.
SHARED_OUT = 32


@contextmanager
def held_back() -> Iterator[list[int]]:
    """A context in which Ctrl-C raises nothing: the list counts it. Only the main thread hears of it anyway, and a
    handler that is not Python's own is its owner's business."""
    counted: list[int] = []
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield counted
        return
    signal.signal(signal.SIGINT, lambda number, frame: counted.append(number))
    try:
        yield counted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class CudaBackend(Backend):
    name = "cuda"
    multiple_bytes = SHARED_OUT
    call_seconds = 0.05  # a device that also draws a screen stops kernels that run for long
    panel = 8 << 20
    predict_rows = 8192
    precisions = ("tf32", "bf16")
    in_place = False  # a graph finds a batch where the last one lay
    gapless = False  # cuBLASLt has its fastest algorithms for rows that begin at multiples of 16 bytes
    shapes = SHAPES
    launches = ("steps", "instructions")

    def __init__(self, driver: Any = None) -> None:
        self._driver: Any = driver or Driver()
        super().__init__(self._driver.memory)
        self._launches = Launches(self._driver, self.shapes)

    def describe(self) -> str:
        return f"cuda: compiled by Numba CUDA for {self._driver.name}, {self._driver.multiprocessors} multiprocessors"

    def facts(self) -> dict[str, str]:
        return self._driver.facts()

    # How work is shared out.

    def workers_for(self, flops: float) -> int:
        """A block for each tile's worth of work, up to what the device runs at once."""
        tiles = flops / (2.0 * self.shapes[np.dtype(np.float32)][0].edge ** 3)
        return max(1, min(self._driver.multiprocessors, int(tiles)))

    def plan(self, network: Network, dtype: np.dtype, batch: int, precision: str = "") -> Plan:
        """One launch for all steps where parameters and the state of Adam fit the shared memory of the blocks among
        which the widest layer is shared out, and these have little to do and to exchange; else instruction by
        instruction, with the algorithms that cuBLASLt names first."""
        weights = sum(inputs * outputs for inputs, outputs in pairwise(network.sizes))
        units = max(network.sizes[1:])
        workers = min(self._driver.multiprocessors, max(1, units * dtype.itemsize // SHARED_OUT))
        room = workers * (self._driver.shared_of_a_block - SHARED_OF_THE_INTERPRETER)
        exchanged = workers * batch * units * dtype.itemsize
        fits = 3 * weights * dtype.itemsize <= room and exchanged <= EXCHANGED_IN_A_STEP
        if not fits or batch * weights > workers * MULTIPLICATIONS_OF_A_BLOCK:
            return self._with_algorithms(self._by_instructions(network, batch), network, dtype, batch, precision)
        pairs = islice(cycle(("out", "in")), network.layers)
        return Plan(workers, tuple(pairs))

    def prediction_plan(self, network: Network, dtype: np.dtype, rows: int) -> Plan:
        return self._by_instructions(network, min(rows, self.predict_rows))

    def step_plan(self, network: Network) -> Plan:
        return self._by_instructions(network, 1)

    def _by_instructions(self, network: Network, batch: int) -> Plan:
        """Instructions one by one, each on as many blocks as a multiprocessor may have waiting."""
        large = (batch * inputs * outputs >= PRODUCTS_OF_A_LIBRARY for inputs, outputs in pairwise(network.sizes))
        products = tuple("library" if yes else "own" for yes in large)
        return Plan(8 * self._driver.multiprocessors, ("tiles",) * network.layers, "instructions", products)

    def _with_algorithms(self, plan: Plan, network: Network, dtype: np.dtype, batch: int, precision: str) -> Plan:
        """The plan with the algorithm of each product of a training that is a library's."""
        if not any(plan.libraries()):
            return plan
        training = program(
            network,
            self.geometry(dtype, plan),
            batch=batch,
            partitions=plan.codes(),
            libraries=plan.libraries(),
            loss=losses.mse,
            update=optimizers.SGD_UPDATE,
        )
        products = dict.fromkeys(bare_products(training, dtype, precision))
        named = ((str(product), self._driver.planned(product).hex()) for product in products)
        return replace(plan, algorithms=tuple(named))

    # Dense layers whose products a library makes.

    def _forward(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        y: Array,
        saved: Array,
        keep: bool,
        rule: Activation,
        precision: str,
    ) -> None:
        """A library's product is written where its epilogue then works, in y or in saved: nothing more is allocated."""
        if not self._by_library(y.size * x.shape[1], x.dtype, precision):
            super()._forward(x, weight, bias, y, saved, keep, rule, precision)
            return
        z = saved if keep else y
        if self._product(x, weight, z, precision, bias, transpose_b=True):
            bias = self._none(x.dtype)
        if bias.size or keep or rule.name != "identity":
            workers = self.workers_for(ELEMENTWISE * y.size)
            numbers = kind("activations", rule), values(rule, x.dtype)
            self.launch("epilogue", x.dtype, workers, z, bias, y, saved, keep, *numbers)

    def _backward(
        self,
        dy: Array,
        x: Array,
        weight: Array,
        saved: Array,
        panel: Array,
        dx: Array,
        dweight: Array,
        dbias: Array,
        rule: Activation,
        precision: str,
    ) -> None:
        """Panel after panel of dz, as the one launch of the other backends does it; the products are always a
        library's, for all of it in one kernel leaves too few registers (it spilled on every architecture)."""
        numbers, workers = (kind("activations", rule), values(rule, x.dtype)), self.workers_for(ELEMENTWISE * dy.size)
        panel = panel.reshape(-1, dy.shape[1])
        for start in range(0, len(dy), len(panel)):
            rows = slice(start, start + len(panel))
            dz = panel[: len(dy[rows])]
            self.launch("apply_backward", x.dtype, workers, dy[rows], saved[rows], dz, *numbers)
            if dx.size:
                self._product(dz, weight, dx[rows], precision)
            if dweight.size:
                self._product(dz, x[rows], dweight, precision, transpose_a=True, accumulate=start > 0)
            self.launch("bias_gradient", x.dtype, workers, dz, dbias, start > 0, LINE // x.itemsize)

    def _by_library(self, multiplications: int, dtype: np.dtype, precision: str) -> bool:
        """Whether cuBLASLt makes the product of dense_forward: from some size on, and at any size where factors are to
        be rounded, which our own products never do."""
        rounded = precision != dtype.name
        return multiplications > 0 and (rounded or multiplications >= PRODUCTS_OF_A_LIBRARY)

    def _product(
        self, a: Array, b: Array, out: Array, precision: str, bias: Array | None = None, **options: Any
    ) -> bool:
        """out = op(a) op(b) of contiguous matrices, and whether the bias was added, if one is given."""
        addresses = [self.memory.address(array) for array in (a, b, out)]
        of_bias = self.memory.address(bias) if bias is not None and bias.size else 0
        biased = of_bias > 0 and gcd(BIAS_ALIGNED, of_bias, *addresses) == BIAS_ALIGNED
        if biased:
            addresses.append(of_bias)
        options |= {"dtype": out.dtype, "precision": precision, "bias": biased}
        product = Product.of(a.shape, b.shape, alignment=gcd(MOST_ALIGNED, *addresses), **options)
        self._driver.product(product, *addresses)
        return biased

    # Calls.

    def place(self, data: Data) -> Data:
        if self.memory.holds(data.x):
            return data
        if sum(part.nbytes for part in data.parts()) > self._driver.memory.free_bytes() // 2:
            return data
        return data.each(self.memory.to_device)

    def feed(self, data: Data, batch: int) -> Feed:
        data = self.place(data)
        return super().feed(data, batch) if self.memory.holds(data.x) else Staged(self._driver, data, batch)

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> int:
        made = Kind(dtype, self.shapes[dtype][0], rules_among(body, arguments))
        if body in entries.MEETING:
            workers = min(workers, self._driver.most_blocks(body, made))
        self._driver.launch(body, made, workers, (self._sync(), *arguments))
        return 0

    def run(self, call: Call) -> BaseException | None:
        self._compile(call)
        with held_back() as interrupts:
            self._start(call)
        return KeyboardInterrupt() if interrupts else None

    def run_interruptible(
        self, call: Call, meanwhile: Callable[[], None], finished: list[int]
    ) -> tuple[int, BaseException | None]:
        """The host waits for the device, and hears of Ctrl-C when the call ends: between two launches it would leave
        half of a step done. While kernels are compiled, which takes seconds, it is heard at once."""
        self._compile(call)
        reached: BaseException | None = None
        with held_back() as interrupts:
            sync = self._start(call)
            try:
                meanwhile()
            except BaseException as error:  # the steps are under way, and count
                reached = error
            words = self.memory.to_host(sync)
        done = int(words[UNFINISHED]) if words[REQUEST] else call.steps
        return done, KeyboardInterrupt() if interrupts and reached is None else reached

    def forget(self, program: Program) -> None:
        self._launches.forget(program)

    def _compile(self, call: Call) -> None:
        if call.plan.launch == "steps":
            self._driver.kernel("run", self._interpreter(call))
        else:
            self._launches.compile(call)

    def _interpreter(self, call: Call) -> Kind:
        return Kind(call.dtype, self.shapes[call.dtype][0], rules_of(call.program), home=True)

    def _start(self, call: Call) -> Array:
        if call.plan.launch == "steps":
            made = self._interpreter(call)
            room = self._driver.home_bytes("run", made) if call.program.table[:, HOME].any() else 0
            most = self._driver.most_blocks("run", made, room)
            if call.plan.workers > most:
                raise ValueError(f"plan: expected at most the {most} workers that may meet, got {call.plan.workers}")
            sync = self._sync(room // call.dtype.itemsize)
            self._driver.launch("run", made, call.plan.workers, (sync, *call.arguments()), room)
        else:
            sync = self._sync()
            clock = self.memory.renewed(self._scratch("clock", _INT64, 2), np.array([call.first, 0], _INT64))
            self._launches.run(call, sync, clock)
        return sync

    def _sync(self, room: int = 0) -> Array:
        """A kernel's context: no stop is asked for, and so many elements of a block's shared memory are for weights."""
        sync = self._scratch("sync", _INT64, SYNC_LENGTH)
        if room:
            words = np.zeros(SYNC_LENGTH, _INT64)
            words[ROOM] = room
            return self.memory.renewed(sync, words)
        self.memory.clear(sync)
        return sync
