"""This library: one `fit` call of many steps.

cpu                on the backend of that name, as planned
twice the workers  by that plan's partitions with twice as many workers as there are threads
two at once        two models by two threads of one process; a step is one of each
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

import fusedmlp as fm
from fusedmlp.backends import Plan
from fusedmlp.backends.arrays import Array
from fusedmlp.benchmarks.cases import SGD, Case, Column, initial_weights, random_data
from fusedmlp.benchmarks.peers import DEADLY, Training


def prepare(case: Case, column: Column, mode: str, threads: int) -> Training:
    fm.set_num_threads(threads)
    if mode == "two at once":
        return Both(case, column)
    if mode == "twice the workers":
        planned = fm.MLP(list(case.sizes), backend="cpu").plan(case.batch)
        return Ours(case, column, "cpu", replace(planned, workers=2 * threads))
    return Ours(case, column, mode)


def predictor(case: Case, threads: int) -> Callable[[], Any]:
    fm.set_num_threads(threads)
    model = Ours(case).model
    x, _ = random_data(case)
    return lambda: model(x)


class Ours:
    def __init__(
        self,
        case: Case,
        column: Column = SGD,
        backend: str = "cpu",
        plan: Plan | None = None,
        precision: str | None = None,
    ):
        self.case = case
        memory = fm.get_backend(backend).memory
        self.x, self.y = map(memory.to_device, random_data(case))
        self.model = fm.MLP(list(case.sizes), activation="relu", backend=backend, plan=plan, precision=precision)
        self.model.load_state_dict(initial_weights(case))
        self.optimizer: fm.SGD | fm.Adam
        if column.name == "sgd":
            self.optimizer = fm.SGD(column.lr, momentum=column.momentum)
        else:
            self.optimizer = fm.Adam(column.lr)

    def first_losses(self, count: int) -> list[float]:
        """One `fit` call a step: this checks the code that is timed, not the hand-written loop."""
        batch, steps = self.case.batch, self.case.steps
        starts = [(k % steps) * batch for k in range(count)]
        return [self._fit(self.x[s : s + batch], self.y[s : s + batch], 1) for s in starts]

    def run(self, steps: int) -> int:
        epochs = max(1, round(steps / self.case.steps))
        rows = min(steps, self.case.steps) * self.case.batch
        self._fit(self.x[:rows], self.y[:rows], epochs)
        return epochs * rows // self.case.batch

    def kill(self) -> None:
        biases = {key: value for key, value in self.model.state_dict().items() if key.endswith("bias")}
        hidden = list(biases)[:-1]
        self.model.load_state_dict(self.model.state_dict() | {key: np.full_like(biases[key], DEADLY) for key in hidden})

    def _fit(self, x: Array, y: Array, epochs: int) -> float:
        history = self.model.fit(
            x,
            y,
            loss=self.case.loss,
            epochs=epochs,
            optimizer=self.optimizer,
            batch_size=self.case.batch,
            shuffle=False,
            progress=False,
        )
        return float(history.loss[-1])


class Both:
    """The same training twice, side by side."""

    def __init__(self, case: Case, column: Column):
        self.trainings = [Ours(case, column) for _ in range(2)]
        self.pool = ThreadPoolExecutor(2)

    def first_losses(self, count: int) -> list[float]:
        return list(self.pool.map(lambda training: training.first_losses(count), self.trainings))[1]

    def run(self, steps: int) -> int:
        return max(self.pool.map(lambda training: training.run(steps), self.trainings))

    def kill(self) -> None:
        for training in self.trainings:
            training.kill()
