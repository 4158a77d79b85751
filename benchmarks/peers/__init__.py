"""The peers: one module each, loaded only inside a worker's process.

A peer's module defines `prepare(case, column, mode, threads) -> Training`, and `predictor(case, threads)`, a call that
gives the network's outputs (B, O) for the case's rows, finished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fusedmlp.benchmarks.explore.clocks import HostClock

OURS = ("ours", "cpu")

MODES: dict[str, tuple[str, ...]] = {
    "ours": ("cpu",),
    "pytorch": ("eager", "foreach", "fused", "compile", "loader"),
    "jax": ("scan", "step"),
    "sklearn": ("partial_fit",),
}

# Those that answer without training; each has one way that is its fastest.
INFERRING = (OURS, ("pytorch", "eager"), ("jax", "jit"), ("numpy", "expression"), ("sklearn", "predict"))

PACKAGES = {"ours": "fusedmlp", "pytorch": "torch", "jax": "jax", "sklearn": "scikit-learn", "numpy": "numpy"}

# A bias that no input of a case makes up for.
DEADLY = -1e3


class Training(Protocol):
    """One network being trained by one peer, from the case's initial weights."""

    def first_losses(self, count: int) -> list[float]:
        """Train `count` steps from the start; the loss of each batch before its update."""

    def run(self, steps: int) -> int:
        """Go on for about this many steps, in whole epochs where there are more than an epoch's.

        Returns the steps done, once they are finished. The batches come in the data's order.
        """

    def kill(self) -> None:
        """Give every hidden unit the bias DEADLY, and leave the optimizer's state as it is: no gradient reaches a
        weight any more, and the momentum decays."""


@dataclass(frozen=True)
class Inference:
    """A network that is asked and not trained: a step is a call, and its outputs stand for the losses."""

    predict: Callable[[], Any]

    def first_losses(self, count: int) -> list[float]:
        return np.asarray(self.predict(), np.float64).ravel()[:count].tolist()

    def run(self, steps: int) -> int:
        for _ in range(steps):
            self.predict()
        return steps

    def kill(self) -> None:
        raise TypeError("a network that is not trained has no momentum")


@dataclass(frozen=True)
class Clocked:
    """A training with a clock of its own."""

    training: Training
    clock: HostClock

    def first_losses(self, count: int) -> list[float]:
        return self.training.first_losses(count)

    def run(self, steps: int) -> int:
        return self.training.run(steps)

    def kill(self) -> None:
        self.training.kill()


def contestants(names: list[str]) -> list[tuple[str, str]]:
    """(peer, mode) for each name: "jax" stands for all of its modes, "jax:scan" for one."""
    found: list[tuple[str, str]] = []
    for name in names:
        peer, _, mode = name.partition(":")
        if peer not in MODES or (mode and mode not in MODES[peer]):
            choices = [f"{known}:{m}" for known, modes in MODES.items() for m in modes]
            raise ValueError(f"peers: {name!r} is unknown; choose from {', '.join([*MODES, *choices])}")
        found.extend((peer, m) for m in ([mode] if mode else MODES[peer]))
    return list(dict.fromkeys(found))
