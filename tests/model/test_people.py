"""What people have goes in as it comes: scikit-learn's data sets, DataFrames, the text's own lines."""

import numpy as np
import pytest
from sklearn import datasets

import fusedmlp as fm

SETS = {
    "digits": ("load_digits", 10, "softmax", "cross_entropy"),
    "diabetes": ("load_diabetes", 1, "identity", "mse"),
    "breast cancer": ("load_breast_cancer", 1, "sigmoid", "binary_cross_entropy"),
}


@pytest.mark.parametrize("name", SETS)
def test_data_sets(backend, dtype, name):
    loader, outputs, output, loss = SETS[name]
    x, y = getattr(datasets, loader)(return_X_y=True)
    if backend.name != "cpu":
        x, y = x[:64], y[:64]
    model = fm.MLP([x.shape[1], 8, outputs], output=output, dtype=dtype, backend=backend)
    first, gradients = model.loss_and_gradients(x, y, loss)
    assert gradients["0.weight"].shape == (8, x.shape[1])
    history = model.fit(x, y, loss=loss, epochs=3, optimizer=fm.Adam(1e-4), validation_data=(x, y), progress=False)
    assert np.isfinite([first, *history.loss, *history.val_loss]).all()
    assert history.val_loss[-1] < first
    assert len(history.val_accuracy) == (0 if name == "diabetes" else 3)
    assert model(x).shape == (len(x), outputs)
    assert model(x).dtype == dtype


def test_frames_and_series(backend, dtype):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "c": [True, False, True]})
    labels = pandas.Series([0, 1, 1])
    model = fm.MLP([3, 4, 2], dtype=dtype, backend=backend)
    array = np.array([[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1]])
    loss, _ = model.loss_and_gradients(frame, labels)
    assert loss == model.loss_and_gradients(array, [0, 1, 1])[0]
    np.testing.assert_array_equal(model(frame), model(array))
    assert model.fit(frame, labels, loss="cross_entropy", epochs=1, progress=False).rows == 3


def test_the_text_of_a_newcomer(backend, dtype):
    """One row of integers, one target."""
    x = np.array([1, 0, 1])
    y = np.array([1])
    model = fm.MLP([3, 2, 1], activation="sigmoid", output="sigmoid", dtype=dtype, backend=backend)
    before = model(x)
    assert before.shape == (1,)
    _, gradients = model.loss_and_gradients(x, y, loss="binary_cross_entropy")
    assert gradients["0.weight"].shape == (2, 3)
    history = model.fit(x, y, loss="binary_cross_entropy", epochs=5, optimizer=fm.SGD(0.9), progress=False)
    assert (history.epochs, history.steps, history.rows) == (5, 5, 5)
    assert model(x) > before


def test_class_labels_of_a_newcomer(backend, dtype):
    model = fm.MLP([3, 4], output="softmax", dtype=dtype, backend=backend)
    single, _ = model.loss_and_gradients([1, 0, 1], 2)
    assert (
        single == model.loss_and_gradients([[1, 0, 1]], [2])[0] == model.loss_and_gradients([1, 0, 1], [0, 0, 1, 0])[0]
    )
