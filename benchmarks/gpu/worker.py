"""One contestant's own process: `python -m fusedmlp.benchmarks.gpu.worker PEER MODE THREADS`; the protocol is that of
benchmarks/worker.py, a request to prepare naming the precision too."""

import importlib
import sys
from typing import Any

from fusedmlp.benchmarks import worker
from fusedmlp.benchmarks.cases import COLUMNS
from fusedmlp.benchmarks.explore import trainings
from fusedmlp.benchmarks.explore.trainings import Task
from fusedmlp.benchmarks.peers import PACKAGES, Training


def task_of(request: dict[str, Any]) -> Task:
    cases = {task.case.name: task.case for task in trainings.TASKS}
    return Task(cases[request["case"]], request["precision"], COLUMNS[request["column"]])


def prepare_of(peer: str, mode: str) -> worker.Prepare:
    """Of a peer's module beside this one, which has `prepare(task, mode) -> Training`."""
    module = importlib.import_module(f"fusedmlp.benchmarks.gpu.by_{peer}")

    def prepare(request: dict[str, Any]) -> Training:
        return module.prepare(task_of(request), mode)

    return prepare


if __name__ == "__main__":
    asked, way, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    worker.serve(lambda: prepare_of(asked, way), PACKAGES[asked], count)
