"""JAX on the device: a scan over an epoch."""

import jax

from fusedmlp.benchmarks.explore.clocks import HostClock
from fusedmlp.benchmarks.explore.train_jax import PRECISIONS
from fusedmlp.benchmarks.explore.trainings import Task
from fusedmlp.benchmarks.peers import Clocked
from fusedmlp.benchmarks.peers.jax import Jax


def prepare(task: Task, mode: str) -> Clocked:
    if jax.default_backend() != "gpu":  # it falls back to the processor without an error
        raise RuntimeError(f"JAX runs on {jax.default_backend()}, not on a GPU")
    precision, dtype = PRECISIONS[task.precision]
    jax.config.update("jax_default_matmul_precision", precision)
    return Clocked(Jax(task.case, task.column, mode, dtype), HostClock())
