"""scikit-learn: one `partial_fit` call an epoch.

Its estimators draw their own weights, so they are initialized by one call and given the case's afterwards.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fusedmlp.benchmarks.cases import SGD, Case, Column, initial_weights, random_data
from fusedmlp.benchmarks.peers import DEADLY


def prepare(case: Case, column: Column, mode: str, threads: int) -> "Sklearn":
    """NumPy's BLAS takes its number of threads from the worker's environment."""
    return Sklearn(case, column)


def predictor(case: Case, threads: int) -> Callable[[], np.ndarray]:
    """A regressor's `predict`: the logits themselves."""
    made = Sklearn(replace(case, loss="mse"), SGD)
    return lambda: made.estimator.predict(made.x)


class Sklearn:
    def __init__(self, case: Case, column: Column):
        self.case = case
        self.x, self.y = random_data(case)
        # Its squared loss is half of the mean over all elements, but its gradient is (prediction - y) / B,
        # PyTorch's times O / 2: SGD's rate makes up for that, and Adam does not see a gradient's scale.
        self.loss_scale = 2.0 if case.loss == "mse" else 1.0
        lr = column.lr * (2.0 / case.sizes[-1] if case.loss == "mse" and column.name == "sgd" else 1.0)
        Estimator = MLPRegressor if case.loss == "mse" else MLPClassifier
        options = {
            "hidden_layer_sizes": case.sizes[1:-1],
            "solver": column.name,
            "alpha": 0.0,
            "batch_size": case.batch,
            "shuffle": False,
            "learning_rate_init": lr,
        }
        if column.name == "sgd":
            options |= {"momentum": column.momentum, "nesterovs_momentum": False}
        else:
            # It adds epsilon to the biased moment's root: so scaled, it is PyTorch's at the first step.
            options |= {"beta_1": column.beta1, "beta_2": column.beta2}
            options |= {"epsilon": column.epsilon * (1 - column.beta2) ** 0.5}
        self.estimator = Estimator(**options)
        self.classes = {} if case.loss == "mse" else {"classes": np.arange(case.sizes[-1])}
        self._epoch(case.batch)
        given = initial_weights(case)
        layers = range(len(case.layers))
        self.estimator.coefs_ = [np.ascontiguousarray(given[f"{2 * n}.weight"].T) for n in layers]
        self.estimator.intercepts_ = [given[f"{2 * n}.bias"] for n in layers]
        del self.estimator._optimizer

    def first_losses(self, count: int) -> list[float]:
        batch, steps = self.case.batch, self.case.steps
        return [self._epoch(batch, start=(k % steps) * batch) * self.loss_scale for k in range(count)]

    def run(self, steps: int) -> int:
        epochs = max(1, round(steps / self.case.steps))
        rows = min(steps, self.case.steps) * self.case.batch
        for _ in range(epochs):
            self._epoch(rows)
        return epochs * rows // self.case.batch

    def kill(self) -> None:
        for bias in self.estimator.intercepts_[:-1]:
            bias[:] = DEADLY

    def _epoch(self, rows: int, start: int = 0) -> float:
        """Train once over these rows; their loss as the estimator reports it."""
        part = slice(start, start + rows)
        self.estimator.partial_fit(self.x[part], self.y[part], **self.classes)
        return float(self.estimator.loss_)
