"""This library on the device: whole `fit` calls over data that lie there.

as planned    as the backend chooses
steps         one cooperative launch for many steps, layers shared out by units
instructions  a graph of kernels, all of them our own
library       a graph of kernels, products by cuBLASLt
"""

from itertools import cycle, islice

import fusedmlp as fm
from fusedmlp.backends import Plan
from fusedmlp.backends.cuda.backend import SHARED_OUT
from fusedmlp.benchmarks.cases import FLOAT_BYTES, Case
from fusedmlp.benchmarks.explore import clocks
from fusedmlp.benchmarks.explore.trainings import Task
from fusedmlp.benchmarks.peers import Clocked
from fusedmlp.benchmarks.peers.ours import Ours

BLOCKS_A_MULTIPROCESSOR = 8


def prepare(task: Task, mode: str) -> Clocked:
    clock = clocks.clock_for("cupy")  # the stream that it makes current must be so before anything is done
    plan = plan_of(task.case, mode)
    own = plan is not None and "library" not in plan.products
    precision = None if own or task.precision == "float32" else task.precision
    return Clocked(Ours(task.case, task.column, "cuda", plan, precision), clock)


def plan_of(case: Case, mode: str) -> Plan | None:
    layers, multiprocessors = len(case.layers), fm.get_backend("cuda")._driver.multiprocessors  # type: ignore[attr-defined]
    if mode == "as planned":
        return None
    if mode == "steps":
        shared_out = max(case.sizes[1:]) * FLOAT_BYTES // SHARED_OUT
        return Plan(max(1, min(multiprocessors, shared_out)), tuple(islice(cycle(("out", "in")), layers)))
    products = ("library",) * layers if mode == "library" else ()
    return Plan(BLOCKS_A_MULTIPROCESSOR * multiprocessors, ("tiles",) * layers, "instructions", products)
