"""JAX on the device: a scan over an epoch, its body one step or eight."""

from typing import Any

import jax
import jax.numpy as jnp

from fusedmlp.benchmarks.explore import trainings
from fusedmlp.benchmarks.explore.clocks import HostClock
from fusedmlp.benchmarks.explore.notebook import Notebook
from fusedmlp.benchmarks.explore.trainings import TASKS, Task
from fusedmlp.benchmarks.peers.jax import Jax

UNROLLS = (1, 8)
EPOCHS = 4  # queued before the host waits: JAX's streams are its own, and what waiting costs is spread over them
# What JAX calls the precision of float32 products; its own default on a GPU may round.
PRECISIONS: dict[str, tuple[str, Any]] = {
    "float32": ("highest", jnp.float32),
    "tf32": ("tensorfloat32", jnp.float32),
    "bf16": ("default", jnp.bfloat16),
}


def explore(
    notes: Notebook,
    tasks: tuple[Task, ...] = TASKS,
    platform: str = "gpu",
    unrolls: tuple[int, ...] = UNROLLS,
    label: str = "",
) -> None:
    notes.found("devices", ", ".join(map(str, jax.devices())))
    if jax.default_backend() != platform:  # it falls back to the processor without an error
        raise RuntimeError(f"JAX runs on {jax.default_backend()}, not on {platform}")

    def scan(task: Task, unroll: int, mode: str) -> None:
        precision, dtype = PRECISIONS[task.precision]
        jax.config.update("jax_default_matmul_precision", precision)
        training = Jax(task.case, task.column, "scan", dtype, unroll)
        losses = training.first_losses(task.case.steps)
        note = f"host's clock over {EPOCHS * task.case.steps} steps"
        trainings.measure(notes, task, mode, training, losses, HostClock(), EPOCHS, note)

    for unroll in unrolls:
        mode = f"scan, unroll {unroll}{label}"
        for task in tasks:
            notes.attempt(f"{task}: {mode}", scan, task, unroll, mode)


def explore_buffers(notes: Notebook, tasks: tuple[Task, ...] = TASKS, platform: str = "gpu") -> None:
    """The same with XLA's command buffers around whole loops, as XLA_FLAGS asks for in this process."""
    explore(notes, tasks, platform, (1,), ", loop in a command buffer")
