"""What the peers train: the CUDA cases of docs/performance.md, and how their losses are checked."""

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fusedmlp.benchmarks.cases import CASES, COLUMNS, Case, Column
from fusedmlp.benchmarks.explore.clocks import HostClock
from fusedmlp.benchmarks.explore.notebook import Notebook
from fusedmlp.benchmarks.peers import Training

DEVICE = "cuda"  # PyTorch's name for it
REPETITIONS = 25
CHECKED_STEPS = 8
Precision = Literal["float32", "tf32", "bf16"]
# Relative, of the first losses: sums in another order; 10 and 7 bits of mantissa, averaged over a batch.
ALLOWED: dict[Precision, float] = {"float32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
ADAM_GROWTH = 1.5  # a step, as in benchmarks/harness.py


@dataclass(frozen=True)
class Task:
    """A case, how its layers multiply, and an optimizer. Weights, gradients and optimizer state are float32."""

    case: Case
    precision: Precision
    column: Column

    def __str__(self) -> str:
        return f"{self.case.name}, {self.precision}, {self.column.name}"


MNIST = replace(CASES["mnist"], steps=128)
MIDDLE = Case("784-1024-1024-10", (784, 1024, 1024, 10), 512, "cross_entropy", steps=64)
LARGE = Case("4096-4096-4096", (4096, 4096, 4096), 4096, "cross_entropy", steps=8)
KINDS: tuple[tuple[Case, Precision], ...] = (
    (MNIST, "float32"),
    (MIDDLE, "tf32"),
    (MIDDLE, "bf16"),
    (LARGE, "bf16"),
    (MIDDLE, "float32"),
    (MNIST, "tf32"),
)
# The most wanted first, for the time may run out.
TASKS = tuple(Task(case, precision, column) for case, precision in KINDS for column in COLUMNS.values())


def losses_file(notes: Notebook, task: Task) -> Path:
    """Where one section's process leaves PyTorch's first losses, in float32, for another's."""
    return notes.file.parent / f"losses-{task.case.name}-{task.column.name}.json"


def mismatch(task: Task, losses: list[float], reference: list[float]) -> str:
    """What is wrong with the first losses; empty where they are right. NaN is always wrong."""
    found = np.array(losses[:CHECKED_STEPS])
    expected = np.array(reference[: found.size])
    growth = ADAM_GROWTH if task.column.name == "adam" else 1.0
    allowed = ALLOWED[task.precision] * growth ** np.arange(found.size)
    distance = np.abs(found - expected) / np.abs(expected)
    wrong = np.flatnonzero(~(distance <= allowed))
    if not wrong.size:
        return ""
    step = int(wrong[0])
    return f"loss {found[step]:.6g} at step {step}, PyTorch has {expected[step]:.6g} in float32"


def measure(
    notes: Notebook,
    task: Task,
    mode: str,
    training: Training,
    losses: list[float],
    clock: HostClock,
    epochs: int = 1,
    note: str = "",
) -> None:
    """Check the losses of the first epoch, time `epochs` a repetition, and see whether the loss went down by then."""
    file = losses_file(notes, task)
    reference = json.loads(file.read_text()) if file.exists() else None
    faults = [mismatch(task, losses, reference) if reference else ""]
    remarks = [note, "" if reference else "losses not compared: PyTorch's are missing"]
    steps = epochs * task.case.steps
    seconds = clock.times(lambda: training.run(steps), REPETITIONS)
    first, last = statistics.fmean(losses), statistics.fmean(training.first_losses(task.case.steps))
    if not last < first:
        faults.append(f"the loss did not go down: {first:.6g}, then {last:.6g}")
    wrong, remark = ("; ".join(filter(None, texts)) for texts in (faults, remarks))
    notes.measured(f"{task}: {mode}", "µs a step", [taken / steps * 1e6 for taken in seconds], wrong, remark)
