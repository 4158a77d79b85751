"""Which kernel of an entry: a kernel is compiled for a dtype, a size of tile, and the rules that its launch names.

The host knows which rules a launch or a program names, so its kernel holds no others: it is smaller, and compiles in
a third of the time.
"""

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.kernels.program import KIND, OP, Program

Rules = tuple[tuple[str, tuple[int, ...]], ...]  # of a family, the numbers

# Of the entries that choose among rules, by which family; the others choose among activations.
_FAMILIES = {"loss": "losses", "one.loss": "losses"}
_FAMILIES |= dict.fromkeys(("step", "one.step_alone", "one.update"), "updates")


@dataclass(frozen=True)
class Shape:
    """How a block works at a tile.

    edge     rows and columns of a tile
    threads  columns and rows of threads, each of which makes (edge / threads)² elements of a product
    depth    how much of a product's inner dimension is staged in shared memory at once
    """

    edge: int
    threads: tuple[int, int]
    depth: int

    @property
    def lanes(self) -> int:
        return self.threads[0] * self.threads[1]


@dataclass(frozen=True)
class Kind:
    """A kernel's dtype and tile; of each family of rules named here it knows these alone; and whether its weights may
    be at home in shared memory."""

    dtype: np.dtype
    shape: Shape
    rules: Rules = ()
    home: bool = False

    def __str__(self) -> str:
        rules = [f"{family}_{'_'.join(map(str, kinds))}" for family, kinds in self.rules]
        return ".".join([str(self.dtype), str(self.shape.edge), *rules, *["home"] * self.home])


def rules_of(program: Program) -> Rules:
    """The rules that a program's instructions name, of every family."""
    kinds: dict[str, set[int]] = {"activations": set(), "losses": set(), "updates": set()}
    for i in program.table:
        kinds[family(entries.instruction(int(i[OP])))].add(int(i[KIND]))
    return tuple((name, tuple(sorted(numbers))) for name, numbers in kinds.items())


def family(entry: str) -> str:
    """The family of rules among which an entry chooses."""
    return _FAMILIES.get(entry, "activations")


@cache
def _places(name: str) -> tuple[int, ...]:
    """Where an entry's arguments say which rule, counted without the context."""
    parameters = list(inspect.signature(entries.body(name)).parameters)[1:]
    return tuple(parameters.index(kind) for kind in ("kind", "identity_kind") if kind in parameters)


def rules_among(name: str, arguments: tuple[Any, ...]) -> Rules:
    """The rules that the arguments of a single kernel name."""
    kinds = tuple(sorted({int(arguments[place]) for place in _places(name)}))
    return ((family(name), kinds),) if kinds else ()
