"""The loss and the accuracy of a model on data that it is not trained on."""

import numpy as np

from fusedmlp.backends.executor import Executor
from fusedmlp.backends.feed import Data
from fusedmlp.kernels.losses import Loss, reduction_factor
from fusedmlp.kernels.program import fused_output

ROWS = 1024  # at a time: their outputs and gradients are little beside the data


class Validation:
    """measure() gives the loss by the backend's own loss kernel, and for a loss that classifies the accuracy: of the
    greatest output for cross_entropy, of each output beside 0.5 for binary_cross_entropy."""

    def __init__(self, executor: Executor, data: Data, loss: Loss, reduction: str) -> None:
        self._executor, self._data, self._loss = executor, executor.place(data), loss
        network = executor.network
        self._logits = fused_output(network, loss)  # what the loss reads
        name = "binary_cross_entropy_with_logits" if loss.name == "binary_cross_entropy" else loss.name
        self._kernel = getattr(executor.backend, name)
        self._factor = reduction_factor(loss, reduction, float(len(data.x)), network.sizes[-1])

    def measure(self) -> tuple[float, float | None]:
        x, truth, labels = self._data.x, self._data.truth, self._data.labels
        memory, total, right = self._executor.backend.memory, 0.0, 0
        for start in range(0, len(x), ROWS):
            rows = slice(start, start + ROWS)
            known = truth[rows] if labels is None else labels[rows]  # type: ignore[index]
            read = self._executor.predict(x[rows], logits=self._logits)
            loss, _ = self._kernel(read, memory.to_device(known), reduction="sum", **dict(self._loss.parameters))
            total += float(memory.to_host(loss))
            right += self._right(memory.to_host(read), memory.to_host(known))
        answers = truth.size if truth is not None and self._loss.scope == "element" else len(x)
        return total * self._factor, None if self._loss.logits is None else right / answers

    def _right(self, read: np.ndarray, known: np.ndarray) -> int:
        """How many answers are right, of logits."""
        if self._loss.logits == "softmax":
            return int(np.count_nonzero(read.argmax(1) == (known if known.ndim == 1 else known.argmax(1))))
        return int(np.count_nonzero((read > 0) == (known > 0.5)))
