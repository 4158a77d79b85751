"""A model on the stand-in for a device (tests/stand_in.py): the same history, parameters and answers as on python."""

import numpy as np
import pytest

import fusedmlp as fm
from stand_in import get_simulator

SIZES, ROWS = [5, 6, 3], 11


@pytest.fixture
def models():
    return [fm.MLP(SIZES, activation="gelu", output="softmax", backend=b) for b in (get_simulator(), "python")]


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], ROWS)


def same(one, other):
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", [fm.SGD(0.1, momentum=0.9), fm.Adam(0.01)], ids=["sgd", "adam"])
def test_training(models, given, optimizer):
    """Three steps an epoch, the last one ragged."""
    histories = [
        model.fit(*given, loss="cross_entropy", epochs=2, batch_size=4, optimizer=optimizer, validation_data=given)
        for model in models
    ]
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(*(getattr(history, name) for history in histories), rtol=2e-5)
    assert [history.steps for history in histories] == [6, 6]
    same(*(model.state_dict() for model in models))
    np.testing.assert_allclose(*(model(given[0], 4) for model in models), rtol=2e-5)


def test_gradients_and_a_step_by_hand(models, given):
    found = [model.loss_and_gradients(*given, sample_weight=np.arange(ROWS)) for model in models]
    np.testing.assert_allclose(*(loss for loss, _ in found), rtol=2e-5)
    same(*(gradients for _, gradients in found))
    for model, (_, gradients) in zip(models, found, strict=True):
        model.update(gradients, "adamw")
    same(*(model.state_dict() for model in models))


def test_a_loss_that_is_not_finite(models, given):
    """The run ends before that step touches a parameter."""
    x, y = given[0].copy(), given[1]
    x[9] = np.nan
    steps = []
    for model in models:
        with pytest.raises(fm.NonFiniteLoss) as caught:
            model.fit(x, y, loss="cross_entropy", epochs=1, batch_size=4, shuffle=False, progress=False)
        steps.append(caught.value.step)
    assert steps == [2, 2]
    same(*(model.state_dict() for model in models))
