"""This library: one `fit` call of many steps."""

import fusedmlp as fm
from fusedmlp.backends import Plan
from fusedmlp.backends.arrays import Array
from fusedmlp.benchmarks.cases import Case, Column, initial_weights, random_data


def prepare(case: Case, column: Column, mode: str, threads: int) -> "Ours":
    """A model on the backend that `mode` names."""
    fm.set_num_threads(threads)
    return Ours(case, column, mode)


class Ours:
    def __init__(
        self, case: Case, column: Column, backend: str, plan: Plan | None = None, precision: str | None = None
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
