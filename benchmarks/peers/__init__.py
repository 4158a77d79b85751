"""The peers: one module each, loaded only inside a worker's process.

A peer's module defines `prepare(case, column, mode, threads) -> Training`.
"""

from dataclasses import dataclass
from typing import Protocol

from fusedmlp.benchmarks.explore.clocks import HostClock

OURS = ("ours", "cpu")

MODES: dict[str, tuple[str, ...]] = {
    "ours": ("cpu",),
    "pytorch": ("eager", "foreach", "fused", "compile", "loader"),
    "jax": ("scan", "step"),
    "sklearn": ("partial_fit",),
}

PACKAGES = {"ours": "fusedmlp", "pytorch": "torch", "jax": "jax", "sklearn": "scikit-learn"}


class Training(Protocol):
    """One network being trained by one peer, from the case's initial weights."""

    def first_losses(self, count: int) -> list[float]:
        """Train `count` steps from the start; the loss of each batch before its update."""

    def run(self, steps: int) -> int:
        """Go on for about this many steps, in whole epochs where there are more than an epoch's.

        Returns the steps done, once they are finished. The batches come in the data's order.
        """


@dataclass(frozen=True)
class Clocked:
    """A training with a clock of its own."""

    training: Training
    clock: HostClock

    def first_losses(self, count: int) -> list[float]:
        return self.training.first_losses(count)

    def run(self, steps: int) -> int:
        return self.training.run(steps)


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
