"""The cases: what every peer trains alike, with its work counted from the shapes.

Notation: B rows of a batch, I inputs and O outputs of a layer.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

DATA_SEED = 1
WEIGHT_SEED = 2
FLOAT_BYTES = 4
INDEX_BYTES = 8


@dataclass(frozen=True)
class Column:
    """One optimizer with its settings; the meanings are PyTorch's. "none" stands where nothing is trained.

    `slots` counts the arrays that it keeps beside each parameter.
    """

    name: Literal["sgd", "adam", "none"]
    lr: float
    momentum: float
    beta1: float
    beta2: float
    epsilon: float
    slots: int


SGD = Column("sgd", lr=0.01, momentum=0.9, beta1=0.0, beta2=0.0, epsilon=0.0, slots=1)
ADAM = Column("adam", lr=1e-3, momentum=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8, slots=2)
NONE = Column("none", lr=0.0, momentum=0.0, beta1=0.0, beta2=0.0, epsilon=0.0, slots=0)
COLUMNS: dict[str, Column] = {column.name: column for column in (SGD, ADAM)}


@dataclass(frozen=True)
class Case:
    """A float32 network with ReLU between its layers, its batch and its loss.

    steps             the length of an epoch: the data have `batch * steps` rows
    to_reach          the goal for the best peer's time over ours; None where there is no goal
    enough            the least that a run must show of it, where that is not `to_reach`
    against_pytorch   the same goal against PyTorch alone, where it has one of its own
    left_out          peers, and modes as in "jax:scan", that do not take part: they take minutes here, or are far from
                      being the fastest of their kind
    checked_steps     whose losses are compared with PyTorch's
    fewest_steps      of a turn
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    loss: Literal["mse", "cross_entropy"]
    steps: int
    to_reach: float | None = None
    enough: float | None = None
    against_pytorch: float | None = None
    left_out: tuple[str, ...] = ()
    checked_steps: int = 20
    fewest_steps: int = 3

    def leaves_out(self, peer: str, mode: str) -> bool:
        return peer in self.left_out or f"{peer}:{mode}" in self.left_out

    @property
    def least(self) -> float | None:
        """The goal that a run must meet."""
        return self.to_reach if self.enough is None else self.enough

    @property
    def rows(self) -> int:
        """Rows of the data: one epoch."""
        return self.batch * self.steps

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(I, O) of each dense layer."""
        return list(pairwise(self.sizes))

    @property
    def parameters(self) -> int:
        """Weights and biases, counted together."""
        return sum(inputs * outputs + outputs for inputs, outputs in self.layers)

    @property
    def flop(self) -> int:
        """Floating-point operations of one step's matrix products; an FMA counts as two.

        Each layer takes 2 B I O forward and as much for its weight gradient; every layer but the first takes
        it once more for its input's gradient. Work per element is left out: it is below one in a hundred at
        mnist and wider.
        """
        products = [3 * inputs * outputs for inputs, outputs in self.layers]
        first_inputs, first_outputs = self.layers[0]
        return 2 * self.batch * (sum(products) - first_inputs * first_outputs)

    def traffic(self, column: Column) -> int:
        """Bytes that one step must read and write at the least, from wherever they live.

        The batch and its targets are read; each parameter and its optimizer's slots are read and written.
        Activations and gradients are taken to stay on chip, so a fused step can reach it.
        """
        target = self.sizes[-1] * FLOAT_BYTES if self.loss == "mse" else INDEX_BYTES
        batch = self.batch * (self.sizes[0] * FLOAT_BYTES + target)
        return batch + 2 * FLOAT_BYTES * self.parameters * (1 + column.slots)


# A loop over a DataLoader is never the fastest, and mnist shows by how much. torch.compile takes most of a minute to
# prepare, and at mid it was seen to be slower than eager. Where a step is short, JAX's scan is ten times ahead of what
# is called from Python: no mode of PyTorch's decides anything.
LOADER, COMPILE, FOREACH = "pytorch:loader", "pytorch:compile", "pytorch:foreach"
FROM_PYTHON = (LOADER, COMPILE, FOREACH)

CASES = {
    case.name: case
    for case in (
        Case("line", (3, 2), 3, "mse", 20_000, to_reach=1.5, against_pytorch=300, left_out=FROM_PYTHON),
        Case("small", (64, 64, 10), 32, "cross_entropy", 2_000, to_reach=2.5, enough=2.0, left_out=FROM_PYTHON),
        Case("mnist", (784, 128, 10), 64, "cross_entropy", 100, to_reach=2.0),
        Case("mid", (784, 512, 256, 10), 128, "cross_entropy", 40, to_reach=1.6, left_out=(LOADER, COMPILE)),
        Case("wide", (784, 1024, 1024, 1024, 10), 512, "cross_entropy", 10, to_reach=1.2, left_out=(LOADER,)),
        # scikit-learn makes a dense table of rows x classes of its targets at each call.
        Case("vocabulary", (256, 512, 20_000), 128, "cross_entropy", 10, to_reach=1.2, left_out=(LOADER, "sklearn")),
        # A step takes two seconds: the modes that differ in what they do beside the products are one.
        Case(
            "large",
            (2048, 4096, 4096, 1000),
            2048,
            "cross_entropy",
            steps=2,
            to_reach=1.05,
            enough=1.0,
            left_out=(LOADER, FOREACH, "pytorch:eager", "jax:scan", "sklearn"),
            checked_steps=2,
            fewest_steps=1,
        ),
    )
}
SWEEPS = {
    "width": tuple(Case(f"width-{w}", (w, w, 10), 64, "cross_entropy", 100) for w in (16, 64, 256, 512, 1024)),
    "batch": tuple(Case(f"batch-{b}", (784, 128, 10), b, "cross_entropy", 20) for b in (1, 4, 16, 64, 256, 1024)),
}
SWEPT = {case.name: case for cases in SWEEPS.values() for case in cases}
INFERRED = {
    case.name: case
    for sizes in ((64, 64, 10), (784, 512, 256, 10))
    for rows in (1, 32, 256, 4096)
    for case in [Case(f"{'-'.join(map(str, sizes))}, {rows}", sizes, rows, "cross_entropy", steps=1)]
}
# The same training with epochs of few rows and of many.
EPOCHS = tuple(Case(f"epoch-{steps}", (784, 128, 10), 64, "cross_entropy", steps) for steps in (50, 400))
ALL = CASES | SWEPT | INFERRED | {case.name: case for case in EPOCHS}


def named(names: list[str]) -> list[Case]:
    """The cases of these names; a sweep's name stands for all of its cases."""
    found: list[Case] = []
    for name in names:
        if name in CASES:
            found.append(CASES[name])
        elif name in SWEEPS:
            found.extend(SWEEPS[name])
        elif name in SWEPT:
            found.append(SWEPT[name])
        else:
            raise ValueError(f"cases: {name!r} is unknown; choose from {', '.join([*CASES, *SWEEPS])}")
    return found


def random_data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """x (rows, I) float32, standard normal, and y: float32 (rows, O) for mse, else int64 (rows,) classes.

    Targets are independent of x, so the loss stays away from 0 however long a training runs.
    """
    rng = np.random.default_rng(DATA_SEED)
    x = rng.standard_normal((case.rows, case.sizes[0]), dtype=np.float32)
    if case.loss == "mse":
        return x, rng.standard_normal((case.rows, case.sizes[-1]), dtype=np.float32)
    return x, rng.integers(0, case.sizes[-1], case.rows)


def initial_weights(case: Case) -> dict[str, np.ndarray]:
    """float32 weights (O, I) and biases (O,), uniform within 1 / sqrt(I), keyed as by torch.nn.Sequential."""
    rng = np.random.default_rng(WEIGHT_SEED)
    weights: dict[str, np.ndarray] = {}
    for layer, (inputs, outputs) in enumerate(case.layers):
        bound = inputs**-0.5
        weights[f"{2 * layer}.weight"] = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
        weights[f"{2 * layer}.bias"] = rng.uniform(-bound, bound, outputs).astype(np.float32)
    return weights
