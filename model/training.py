"""The loop of `fit`: epochs of compiled steps, and between them validation, progress and callbacks."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fusedmlp.backends.errors import NonFinite
from fusedmlp.backends.executor import Executor
from fusedmlp.backends.feed import Data
from fusedmlp.kernels.losses import Loss, reduction_factor
from fusedmlp.kernels.optimizers import Hyperparameters
from fusedmlp.model.history import History, NonFiniteLoss
from fusedmlp.model.minibatches import row_orders
from fusedmlp.model.progress import Progress
from fusedmlp.model.validation import Validation


@dataclass(frozen=True)
class Task:
    """What `fit` was asked for, checked. `first_epoch` is the number that the first epoch has in the batch order."""

    data: Data
    loss: Loss
    reduction: str
    optimizer: Hyperparameters
    batch_size: int
    epochs: int
    shuffle: bool
    seed: int
    first_epoch: int
    progress: bool | str


def step_rows(rows: int, batch_size: int) -> np.ndarray:
    """How many rows each step of an epoch has: float64 (steps,)."""
    made = np.full(-(-rows // batch_size), float(batch_size))
    made[-1] -= len(made) * batch_size - rows
    return made


def batch_mass(weights: np.ndarray | None, order: np.ndarray, batch_size: int) -> np.ndarray:
    """What a mean over each batch divides by: its rows, or the sum of their weights; float64 (steps,)."""
    if weights is None:
        return step_rows(len(order), batch_size)
    return np.add.reduceat(weights[order].astype(np.float64), np.arange(0, len(order), batch_size))


def row_factors(loss: Loss, reduction: str, mass: np.ndarray, outputs: int) -> np.ndarray:
    """What each step's rows are multiplied by: float64 (steps,). A batch whose weights are all 0 has the mean 0."""
    factors = reduction_factor(loss, reduction, np.where(mass > 0, mass, np.inf), outputs)  # type: ignore[arg-type]
    return np.full(len(mass), factors)


def train(
    executor: Executor,
    task: Task,
    validation: Validation | None,
    history: History,
    after_epoch: Callable[[History], bool],
) -> None:
    """Trains for task.epochs epochs, until after_epoch(history) returns True, or until Ctrl-C. Whatever ends it, the
    history has what was done."""
    progress = Progress(task.progress, task.epochs, len(task.data.x), history)
    try:
        placed, weights = executor.place(task.data), executor.host_weights(task.data)
        orders = row_orders(len(task.data.x), task.shuffle, task.seed, task.first_epoch, task.epochs)
        for epoch in range(task.epochs):
            loss = _train_epoch(executor, task, placed, weights, orders, epoch, history, progress)
            measured = None if validation is None else validation.measure()
            history.add(loss, measured)
            progress.epoch()
            if after_epoch(history) or history.interrupted:
                break
    except KeyboardInterrupt:
        if history.steps == 0:
            raise  # nothing was learnt: whoever called would go on with an untrained model
        history.interrupted = True
    finally:
        progress.close()
        executor.rest()
    if history.interrupted:
        kept = "the weights so far are kept, and history.interrupted is set"
        print(f"fusedmlp: interrupted after {history.epochs} of {task.epochs} epochs; {kept}", file=sys.stderr)


def _train_epoch(
    executor: Executor,
    task: Task,
    placed: Data,
    weights: np.ndarray | None,
    orders: Iterator[np.ndarray],
    epoch: int,
    history: History,
    progress: Progress,
) -> float:
    """One epoch over the data where the executor wants them, with the sample weights at hand, in the next of the
    orders; returns its loss."""
    started, rows, size = time.perf_counter(), len(task.data.x), task.batch_size
    steps_before, rows_before, seconds_before = history.steps, history.rows, history.seconds
    taken_before = executor.steps_taken(task.optimizer)
    order = next(orders)
    each, mean = step_rows(rows, size), task.reduction == "mean"
    shares = each / rows if mean else np.ones(len(each))
    mass = batch_mass(weights, order, size)
    factors = row_factors(task.loss, task.reduction, mass, executor.network.sizes[-1])
    step, total = 0, 0.0

    def count() -> int:
        """What was done goes into the history; the rows of this epoch that are done."""
        taken = executor.steps_taken(task.optimizer) - taken_before
        done = min(rows, taken * size)
        history.steps, history.rows = steps_before + taken, rows_before + done
        history.seconds = seconds_before + time.perf_counter() - started
        return done

    try:
        for losses in executor.train(
            placed,
            order,
            loss=task.loss,
            optimizer=task.optimizer,
            batch_size=size,
            factors=factors,
            in_order=not task.shuffle,
        ):
            last = step + len(losses)
            total = _added_in_turn(total, losses * shares[step:last])
            step = last  # at once: Ctrl-C after the last step takes the total for the epoch's
            done = count()
            progress.step(done, total * rows / done if mean else total)
    except NonFinite:
        raise NonFiniteLoss(epoch, step, task.optimizer.lr, history) from None
    except BaseException as error:  # between the end of some steps and their being counted, for all that is known
        count()
        if not isinstance(error, KeyboardInterrupt) or step < len(each):
            raise
        history.interrupted = True  # with the epoch's last step, so that it is a whole one
    return total


def _added_in_turn(total: float, losses: np.ndarray) -> float:
    """One after the other, so that it makes no difference how many steps a call took: that is a matter of time."""
    return float(np.add.accumulate(np.append(total, losses))[-1])
