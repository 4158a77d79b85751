"""A program run instruction by instruction: each is a kernel of its own, or a product of cuBLASLt, and the steps of a
training are captured as graphs.

What differs from step to step lies in the device's memory: a clock of two words says which step it is, and the scalars
of all steps of a call are there. So one graph serves every call over the same arrays, and the host only replays it.
"""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.backends.arrays import Array
from fusedmlp.backends.backend import LINE
from fusedmlp.backends.call import Call
from fusedmlp.backends.cuda.kinds import Kind, Shape, family
from fusedmlp.backends.cuda.products import Product
from fusedmlp.kernels.program import (
    B_AT,
    B_LENGTH,
    BACKWARD,
    FORWARD,
    GATHER,
    INPUTS,
    KIND,
    LIBRARY,
    OP,
    OUTPUTS,
    PARTITION,
    ROWS,
    STEP,
    TOTAL,
    UPDATE,
    W_AT,
    W_LENGTH,
    X_AT,
    X_LENGTH,
    Y_AT,
    Y_LENGTH,
    Program,
)

# A replay costs the host some 10 µs by published figures, so many steps share one; the rest of a call goes one by one.
STEPS_OF_A_GRAPH = (32, 8, 1)
GRAPHS = 16  # that are kept of a program: more only where a caller brings new arrays each time

MATRICES = (FORWARD, BACKWARD, UPDATE)
BARE = (GATHER, TOTAL)  # that know no rule


class Launches:
    """Runs calls (backends/call.py) on a driver (backends/cuda/driver.py)."""

    def __init__(self, driver: Any, shapes: dict[np.dtype, tuple[Shape, ...]]) -> None:
        self._driver, self._shapes = driver, shapes
        self._graphs: weakref.WeakKeyDictionary[Program, dict[Any, _Graph]] = weakref.WeakKeyDictionary()

    def compile(self, call: Call) -> None:
        """Compiles the kernels of a call where that was not done, and readies the products whose algorithms the plan
        names."""
        if call.program in self._graphs:
            return
        for i in call.program.table.tolist():
            if not _is_bare_product(i):
                self._driver.kernel(*self._kernel(call, i)[:2])
        self._driver.kernel("advance", self._plain(call))
        self._check_algorithms(call)

    def run(self, call: Call, sync: Array, clock: Array) -> None:
        """Launches the steps of a call; the caller does not wait. `sync` has the words of the kernels' context,
        cleared, and `clock` those of a clock, set to the call's first step."""
        done = 0
        if not call.repeated or call.program not in self._graphs:
            # What is captured must have run before. And a call that is not repeated is not worth a graph.
            done = 1 if call.repeated else call.steps
            self._steps(call, sync, clock, done)
            if call.repeated:
                self._graphs[call.program] = {}
        for steps in STEPS_OF_A_GRAPH:
            times = (call.steps - done) // steps
            if times:
                graph = self._graph(call, sync, clock, steps)
                for _ in range(times):
                    self._driver.replay(graph)
                done += times * steps

    def forget(self, program: Program) -> None:
        """Frees the graphs of a program, and with them the arrays that they hold."""
        self._graphs.pop(program, None)

    def _check_algorithms(self, call: Call) -> None:
        """ValueError where cuBLASLt refuses an algorithm of the plan."""
        if not call.plan.algorithms:
            return
        for product in bare_products(call.program, call.dtype, call.precision):
            algorithm = call.plan.algorithm(str(product))
            if algorithm is None:
                continue
            try:
                self._driver.planned(product, algorithm)
            except (ValueError, RuntimeError) as error:
                remedy = "one belongs to a version of cuBLAS and a kind of device; leave it out for cuBLASLt's choice"
                raise ValueError(f"plan: its algorithms are refused here ({remedy}): {error}") from error

    def _graph(self, call: Call, sync: Array, clock: Array, steps: int) -> Any:
        graphs, arrays = self._graphs[call.program], (sync, clock, *call.arrays())
        places = tuple((self._driver.memory.address(array), array.shape) for array in arrays)
        key = (steps, call.plan, call.guarded, call.precision, places)
        if key not in graphs:
            if len(graphs) >= GRAPHS:
                graphs.clear()
            multiplies = any(map(_is_bare_product, call.program.table.tolist()))
            captured = self._driver.capture(lambda: self._steps(call, sync, clock, steps), multiplies)
            graphs[key] = _Graph(captured, arrays)
        return graphs[key].captured

    def _steps(self, call: Call, sync: Array, clock: Array, steps: int) -> None:
        """So many steps of a call, from where its clock stands."""
        words, arrays = self._driver.ready((sync, clock)), self._driver.ready(call.arrays())
        for ahead in range(steps):
            for number in range(len(call.program.table)):
                self._instruction(call, (*words, *arrays), number, ahead)
        self._driver.launch("advance", self._plain(call), 1, (*words, steps))

    def _plain(self, call: Call) -> Kind:
        """Of kernels that know no rule."""
        return Kind(call.dtype, self._shapes[call.dtype][0])

    def _instruction(self, call: Call, arrays: tuple, number: int, ahead: int) -> None:
        i = call.program.table[number].tolist()
        if _is_bare_product(i):
            self._product(call, i)
            return
        entry, kind, blocks = self._kernel(call, i)
        self._driver.launch(entry, kind, blocks, (*arrays, call.program.batch, number, ahead, call.guarded))

    def _kernel(self, call: Call, i: list[int]) -> tuple[str, Kind, int]:
        """The entry of an instruction, which kernel of it, and on how many blocks."""
        entry = entries.instruction(i[OP])
        rows, columns = self._extent(i, call.program.batch)
        shape = self._shape(call, rows, columns) if i[OP] in MATRICES else self._shapes[call.dtype][0]
        rules = () if i[OP] in BARE else ((family(entry), (i[KIND],)),)
        # A rule over whole rows has a row a block, everything else a tile.
        blocks = rows if i[PARTITION] == ROWS else -(-rows // shape.edge) * -(-columns // shape.edge)
        return entry, Kind(call.dtype, shape, rules), max(1, min(blocks, call.plan.workers))

    def _extent(self, i: list[int], batch: int) -> tuple[int, int]:
        """Rows and columns of what an instruction makes."""
        if i[OP] == TOTAL:
            return 1, 1
        if i[OP] == UPDATE:
            return max(1, i[INPUTS]), i[OUTPUTS]
        if i[OP] == STEP:
            return i[INPUTS], i[OUTPUTS]
        if i[OP] == GATHER:
            return batch, max(i[INPUTS], i[OUTPUTS])  # of the inputs and of the truth
        return batch, i[INPUTS] if i[OP] == BACKWARD else i[OUTPUTS]

    def _shape(self, call: Call, rows: int, columns: int) -> Shape:
        """The largest tile of which there are enough to keep every multiprocessor at work, or the smallest."""
        *larger, smallest = sorted(self._shapes[call.dtype], key=lambda shape: -shape.edge)
        for shape in larger:
            if -(-rows // shape.edge) * -(-columns // shape.edge) >= self._driver.multiprocessors:
                return shape
        return smallest

    def _product(self, call: Call, i: list[int]) -> None:
        product, places = bare_product(i, call.program.batch, call.dtype, call.precision)
        start, itemsize = self._driver.memory.address(call.buffer), call.dtype.itemsize
        a, b, out = (start + place * itemsize for place in places)
        bias = start + i[B_AT] * itemsize if product.bias else 0
        self._driver.product(product, a, b, out, bias, call.plan.algorithm(str(product)))


def bare_products(program: Program, dtype: np.dtype, precision: str) -> Iterator[Product]:
    """The products of a program that are left to a library, in their order."""
    for i in filter(_is_bare_product, program.table.tolist()):
        product, _ = bare_product(i, program.batch, dtype, precision)
        yield product


def _is_bare_product(i: list[int]) -> bool:
    return i[OP] in MATRICES and bool(i[LIBRARY])


def bare_product(i: list[int], batch: int, dtype: np.dtype, precision: str) -> tuple[Product, tuple[int, ...]]:
    """The bare product of an instruction, over all rows that a batch may have, and where a, b and out begin in the
    buffer."""
    x, w, y = (i[X_AT], i[X_LENGTH]), (i[W_AT], i[W_LENGTH]), (i[Y_AT], i[Y_LENGTH])
    below, above, weight = (batch, i[INPUTS]), (batch, i[OUTPUTS]), (i[INPUTS], i[OUTPUTS])
    if i[OP] == FORWARD:
        (a, b), blocks = (below, weight), (x, w, y)
    elif i[OP] == BACKWARD:
        (a, b), blocks = (above, weight), (x, w, y)
    else:
        (a, b), blocks = (below, above), (x, y, w)
    places, leading = zip(*blocks, strict=True)
    product = Product.of(
        a,
        b,
        leading,
        dtype=dtype,
        precision=precision,
        transpose_a=i[OP] == UPDATE,
        transpose_b=i[OP] == BACKWARD,
        bias=i[B_LENGTH] > 0,
        alignment=LINE,
    )
    return product, places


class _Graph:
    """A graph, and the arrays that it reads and writes, which must live as long."""

    def __init__(self, captured: Any, arrays: tuple[Array, ...]) -> None:
        self.captured, self.arrays = captured, arrays
