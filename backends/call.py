"""A call of the interpreter, by name: steps of one program over data in a backend's memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels.program import Program


@dataclass(frozen=True, slots=True)
class Call:
    """What `run` of kernels/interpreter.py takes after its context, and what a backend needs to run it in another way.

    program    whose `table` lies in the processor's memory; here `table` is the backend's
    first      the number of the first step, and `steps` how many there are
    guarded    whether a loss that is not finite stops the call
    precision  of products that are left to a library: "" or the dtype's name, or for float32 "tf32" or "bf16"
    repeated   whether more such calls follow, over the same arrays
    brief      whether it is expected to be over before anybody would want to stop it
    """

    program: Program
    plan: Plan
    table: Array
    buffer: Array
    x: Array
    truth: Array
    sample_weights: Array
    labels: Array
    batch_labels: Array
    order: Array
    scalars: Array
    losses: Array
    result: Array
    first: int
    steps: int
    guarded: bool = False
    precision: str = ""
    repeated: bool = False
    brief: bool = False

    @property
    def dtype(self) -> np.dtype:
        return self.buffer.dtype

    def arrays(self) -> tuple[Array, ...]:
        """In the interpreter's order."""
        return (
            *(self.table, self.buffer, self.x, self.truth, self.sample_weights, self.labels, self.batch_labels),
            *(self.order, self.scalars, self.losses, self.result),
        )

    def arguments(self) -> tuple[Any, ...]:
        """Of the entry "run"."""
        return (*self.arrays(), self.program.batch, self.first, self.first + self.steps, self.guarded)
