"""Trainings step by step beside PyTorch's."""

from dataclasses import replace

import numpy as np
import pytest

import fusedmlp as fm
from oracle import ACTIVATION_CASES, Case
from trajectory import Training, epoch_losses, in_turn

SGD = Case("SGD", {"lr": 0.05, "momentum": 0.9})
ADAM = Case("Adam", {"lr": 0.01})
SLOW = Case("SGD", {"lr": 0.01, "momentum": 0.9})  # at 0.05 hidden layers of log_softmax diverge, in PyTorch as here
WIDTHS = {1: [], 2: [19], 3: [19, 13], 4: [19, 13, 11]}
ROWS, BATCH, STEPS_AN_EPOCH = 67, 16, 5


def start(sizes):
    return fm.MLP(sizes, init="torch", dtype="float64", seed=4, backend="python").state_dict()


def training(rng, sizes, activation, optimizer, steps):
    """Five classes, five batches an epoch, the last of 3 rows."""
    x = rng.normal(size=(ROWS, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], ROWS)
    batches = in_turn(ROWS, BATCH, steps)
    return Training(sizes, activation, "softmax", "cross_entropy", optimizer, x, y, batches, start(sizes))


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=str)
@pytest.mark.parametrize("depth", WIDTHS)
def test_fifty_steps(backend, dtype, depth, optimizer, rng):
    """Step by step, and as ten epochs of one `fit`."""
    task = training(rng, [7, *WIDTHS[depth], 5], "tanh", optimizer, 50)
    model = task.model(backend, dtype)
    task.check(model, task.step_losses(model))

    whole = task.model(backend, dtype)
    history = whole.fit(
        task.x, task.y, loss=task.loss, optimizer=task.stepper(), epochs=10, batch_size=BATCH, shuffle=False,
        progress=False,
    )  # fmt: skip
    expected, parameters = task.expected(dtype)
    bounds = epoch_losses(expected.tolerance, task.batches, STEPS_AN_EPOCH)
    means = epoch_losses(expected.value, task.batches, STEPS_AN_EPOCH)
    assert (np.abs(np.array(history.loss) - means) <= bounds).all()
    for name, value in whole.state_dict().items():
        parameters[name].check(value, name)


@pytest.mark.parametrize("width", [7, 17])
@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_every_activation_at_ragged_widths(backend, dtype, case, width, rng):
    """Padding must stay out: of the columns of a layer, of its gradients, of a softmax."""
    steps = 200 if backend.name == "cpu" else 20
    task = training(rng, [width, width, width, 5], case, SLOW, steps)
    model = task.model(backend, dtype)
    task.check(model, task.step_losses(model))


@pytest.mark.parametrize("loss", ["mse", "half_mse", "mae", "huber", "binary_cross_entropy"])
def test_every_loss_with_an_output_of_its_own(backend, dtype, loss, rng):
    sizes, output = [7, 11, 3], "sigmoid" if loss == "binary_cross_entropy" else "tanh"
    task = replace(
        training(rng, sizes, "tanh", SGD, 20),
        output=output, loss=loss, y=rng.integers(0, 2, (ROWS, 3)).astype(np.float32),
    )  # fmt: skip
    model = task.model(backend, dtype)
    task.check(model, task.step_losses(model))


FAULTS = {
    "one part in ten thousand of the rate": lambda task: replace(
        task, optimizer=replace(task.optimizer, options=task.optimizer.options | {"lr": 0.050005})
    ),
    "another slope": lambda task: replace(task, activation="gelu_tanh"),
    "two rows exchanged between batches": lambda task: replace(
        task, batches=[np.concatenate([batch[:-1], [3]]) for batch in task.batches]
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_can_fail(dtype, fault, rng):
    task = training(rng, [7, 19, 5], "gelu", SGD, 50)
    model = task.model("cpu", dtype)
    losses = FAULTS[fault](task).step_losses(
        model if fault != "another slope" else FAULTS[fault](task).model("cpu", dtype)
    )
    with pytest.raises(AssertionError, match="tolerance"):
        task.check(model, losses)
