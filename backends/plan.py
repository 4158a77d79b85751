"""The plan: how many workers run a step, how each layer is shared out among them, and which algorithms the products of
a library take. It fixes every order of summation, so the same plan gives the same bits.

It is chosen by a cost model from a machine's measured rates. The rates are kept on disk, so the choice is the same from
run to run, but for the first few where they look poor.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from numbers import Integral
from typing import Any

from fusedmlp.kernels import losses, optimizers
from fusedmlp.kernels.program import (
    BACKWARD,
    BARRIER,
    FORWARD,
    GATHER,
    IN,
    INPUTS,
    JOIN,
    JOIN_BACKWARD,
    LOSS,
    MULTIPLE,
    OP,
    OUT,
    OUTPUTS,
    PARTITION,
    PARTITIONS,
    PARTS,
    ROWS,
    UPDATE,
    Geometry,
    Network,
    program,
)

WORTHWHILE = 0.8  # the share of one worker's time that several must stay below

LAUNCHES = ("steps", "instructions")
PRODUCTS = ("own", "library")


@dataclass(frozen=True)
class Plan:
    """How a training is run (docs/design.md).

    workers     how many run a step; of single instructions, the most. On cpu they are threads, as many as stand here
                whatever FUSEDMLP_NUM_THREADS is, up to 16 for each processor of the machine
    partitions  "out", "in", "rows" or "tiles" for each layer
    launch      "steps": one call runs many steps; "instructions", on a device: each is a kernel of its own, and many
                steps of them a graph, for which all partitions are "tiles"
    products    "own" or "library" for each layer, the library being cuBLASLt; empty: all own
    algorithms  pairs of a product by the library, in words, and cuBLASLt's algorithm for it, as hexadecimal digits:
                `describe` prints both. An algorithm belongs to a version of cuBLAS and a kind of device; one that is
                refused there is a ValueError when it is to be used. A product that no pair names has the algorithm
                that cuBLASLt names first

    repr(plan) is the Python that makes an equal plan, str(plan) says it in words. Raises ValueError for anything else.
    """

    workers: int
    partitions: tuple[str, ...]
    launch: str = "steps"
    products: tuple[str, ...] = ()
    algorithms: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, Integral) or self.workers < 1:
            raise ValueError(f"plan: workers must be a whole number of at least 1, got {self.workers!r}")
        object.__setattr__(self, "workers", int(self.workers))
        for name in ("partitions", "products"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Sequence):
                raise ValueError(f"plan: {name} must be a tuple of names, one for each layer, got {given!r}")
            object.__setattr__(self, name, tuple(given))
        if not self.partitions:
            raise ValueError("plan: partitions must name one for each layer, got none")
        for partition in self.partitions:
            if partition not in PARTITIONS:
                raise ValueError(f"plan: unknown partition {partition!r}; expected one of {', '.join(PARTITIONS)}")
        if self.launch not in LAUNCHES:
            raise ValueError(f"plan: unknown launch {self.launch!r}; expected one of {', '.join(LAUNCHES)}")
        for product in self.products:
            if product not in PRODUCTS:
                raise ValueError(f"plan: unknown product {product!r}; expected one of {', '.join(PRODUCTS)}")
        if self.launch == "instructions" and set(self.partitions) != {"tiles"}:
            raise ValueError(f"plan: instructions are launched by tiles, got partitions {', '.join(self.partitions)}")
        if self.launch == "steps" and "library" in self.products:
            raise ValueError("plan: products by a library need launch='instructions', got launch='steps'")
        if self.products and len(self.products) != len(self.partitions):
            raise ValueError(f"plan: expected {len(self.partitions)} products, got {len(self.products)}")
        object.__setattr__(self, "algorithms", _algorithms(self.algorithms))
        if self.algorithms and "library" not in self.products:
            raise ValueError("plan: algorithms are those of products by a library, of which there are none")

    def libraries(self) -> tuple[bool, ...]:
        return tuple(product == "library" for product in self.products)

    def codes(self) -> tuple[int, ...]:
        return tuple(PARTITIONS[partition] for partition in self.partitions)

    def algorithm(self, product: str) -> bytes | None:
        """That of a product, if it is named."""
        digits = dict(self.algorithms).get(product)
        return None if digits is None else bytes.fromhex(digits)

    def __str__(self) -> str:
        """A line, and one more for each algorithm."""
        if self.launch == "instructions":
            products = ", ".join(self.products) or "own"
            way = f"a graph of instructions, at most {self.workers} blocks each, products: {products}"
            return "\n".join([way, *(f"  {product}: {digits}" for product, digits in self.algorithms)])
        if self.workers == 1:
            return "1 worker"
        return f"{self.workers} workers, layers by {', '.join(self.partitions)}"


def _algorithms(given: Any) -> tuple[tuple[str, str], ...]:
    """The pairs, checked."""
    expected = "plan: algorithms must be a tuple of pairs, a product in words and hexadecimal digits"
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{expected}, got {given!r}")
    named: dict[str, str] = {}
    for pair in given:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or [type(part) for part in pair] != [str, str]:
            raise ValueError(f"{expected}, got {pair!r}")
        product, digits = pair
        if not re.fullmatch("([0-9a-f]{2})+", digits):
            raise ValueError(f"{expected}, two a byte, got {digits!r} for {product}")
        if product in named:
            raise ValueError(f"plan: expected one algorithm a product, got several for {product}")
        named[product] = digits
    return tuple(named.items())


@dataclass(frozen=True)
class Rates:
    """What one machine does with all the threads of a call.

    flops     floating-point operations a second of products on one thread (float32)
    elements  numbers a second that one thread adds to others in its cache, in rows of 64 (float32)
    scaling   how many times as much all threads do (two of one core: little more than 1)
    seam      seconds that a row takes longer of whose columns each worker writes its own: what a processor fetches
              ahead at the end of one worker's part, it takes from the other
    barrier   seconds in which they meet
    handover  seconds to start and end a call
    transfer  bytes a second from one core's cache to another's
    """

    flops: float
    elements: float
    scaling: float
    seam: float
    barrier: float
    handover: float
    transfer: float

    def better(self, other: "Rates") -> "Rates":
        """The better of each of two measurements."""
        return Rates(
            flops=max(self.flops, other.flops),
            elements=max(self.elements, other.elements),
            scaling=max(self.scaling, other.scaling),
            seam=min(self.seam, other.seam),
            barrier=min(self.barrier, other.barrier),
            handover=min(self.handover, other.handover),
            transfer=max(self.transfer, other.transfer),
        )


def serial_plan(network: Network) -> Plan:
    """One worker, to which every partition is the same."""
    return Plan(1, ("out",) * network.layers)


def choose_plan(network: Network, batch: int, threads: int, rates: Rates | None) -> Plan:
    """The plan whose predicted time for a training step of `batch` rows is shortest, of one worker and of some numbers
    of them. Several must promise a fifth: one that waits for a core that another program has costs more than a near tie
    can win."""
    serial = serial_plan(network)
    if threads == 1 or rates is None:
        return serial
    shared_out = [("out",) * network.layers, ("rows",) * network.layers]
    for pair in (("out", "in"), ("in", "out"), ("in", "in")):
        pairs = tuple(islice(cycle(pair), network.layers))
        shared_out += [pairs, (*pairs[:-1], "rows"), (pair[0], *("rows",) * (network.layers - 1))]
    numbers = [*(1 << k for k in range(1, (threads - 1).bit_length())), threads]
    candidates = [Plan(workers, partitions) for workers in numbers for partitions in dict.fromkeys(shared_out)]
    predicted = {plan: predicted_seconds(network, batch, plan, threads, rates) for plan in [serial, *candidates]}
    shared = min(candidates, key=predicted.__getitem__)
    return shared if predicted[shared] < WORTHWHILE * predicted[serial] else serial


# What passes between cores is counted as between cores that lie apart, unless it was measured as still dearer: those
# of a virtual machine are next to each other at one time and apart at another, and what is measured once is kept. Two
# cores of an AMD EPYC meet in 0.1 us, or in 0.6; 64-64-10 by two workers took 9 us a step, or 26, and by one it takes
# 11. Two caches pass 50 GB/s, or 8 (sums were joined in 13 us, or 54). A seam costs 25 ns, or 400: 784 rows of 512
# weights were multiplied and stepped in 505 us, or in 850.
FAR_BARRIER, FAR_TRANSFER, FAR_SEAM = 6e-7, 8e9, 4e-7

# How many elements a row counts for beside its own, for the calls and views that it takes; and how many such rows a
# row of a loss, which several loops run over.
ROW, LOOPS = 192, 10


def predicted_seconds(network: Network, batch: int, plan: Plan, threads: int, rates: Rates) -> float:
    """Seconds of one training step by a plan: what its program multiplies, and works on element by element, at the
    measured rates over the workers; its barriers; and what a worker must fetch from another's cache. `rates` are those
    of so many threads."""
    geometry = Geometry(alignment=16, workers=plan.workers)
    table = program(
        network,
        geometry,
        batch=batch,
        partitions=plan.codes(),
        loss=losses.mse,
        update=optimizers.SGD_UPDATE,
    ).table
    busy = sum(_seconds_of_one(i, batch, plan.workers, rates) for i in table.tolist())
    if plan.workers == 1:
        return busy
    help_of_one = (rates.scaling - 1.0) / (threads - 1)
    slowdown = plan.workers / (1.0 + help_of_one * (plan.workers - 1))
    barriers = int((table[:, BARRIER] > 0).sum())
    fetched = 4.0 * _fetched(network, batch, plan)
    layers = zip(pairwise(network.sizes), plan.partitions, strict=True)
    seams = sum(i for (i, o), partition in layers if partition == "out" and o > geometry.multiple)
    passed_on = barriers * max(rates.barrier, FAR_BARRIER) + fetched / min(rates.transfer, FAR_TRANSFER)
    return busy * slowdown + passed_on + seams * max(rates.seam, FAR_SEAM)


def _seconds_of_one(i: list[int], batch: int, workers: int, rates: Rates) -> float:
    """What an instruction takes the worker that has the largest share of it."""
    inputs, outputs, parts = i[INPUTS], i[OUTPUTS], 1 + i[PARTS]
    extent = {OUT: outputs, IN: inputs, ROWS: batch}[i[PARTITION]]
    units = -(-extent // (1 if i[PARTITION] == ROWS else i[MULTIPLE])) or 1
    share = -(-units // workers) / units
    flops = 2.0 * batch * inputs * outputs if i[OP] in (FORWARD, BACKWARD, UPDATE) else 0.0
    rows, columns = {
        GATHER: (2 * batch, (inputs + outputs) / 2),
        FORWARD: (batch, outputs),
        JOIN: (batch * parts, outputs),
        LOSS: (LOOPS * batch, outputs),
        BACKWARD: (batch, inputs),
        JOIN_BACKWARD: (batch * parts, inputs),
        UPDATE: (inputs + batch, outputs),
    }.get(i[OP], (0, 0))
    by_columns = i[PARTITION] == OUT or (i[PARTITION] == IN and i[OP] != UPDATE)
    elements = rows * columns * share + rows * ROW * (1 if by_columns else share)
    return flops * share / rates.flops + elements / rates.elements


def _fetched(network: Network, batch: int, plan: Plan) -> float:
    """Numbers that one worker of a plan reads in a step and that another wrote."""
    workers, numbers = plan.workers, 0.0
    for layer, (inputs, outputs) in enumerate(pairwise(network.sizes)):
        partition, sums = plan.partitions[layer], inputs if layer else 0
        if partition == "out":  # the whole of x, and partial sums of dx, of which the first layer has none
            numbers += batch * (inputs + workers * sums)
        elif partition == "in":  # columns of an x that was made by rows, but by columns in a pair; dz, and partial sums
            by_rows = inputs if plan.partitions[layer - 1] != "out" or not layer else 0
            numbers += batch * (by_rows + outputs + workers * outputs)
        else:
            numbers += 2 * inputs * outputs + batch * (inputs + outputs)
    return numbers * (workers - 1) / workers
