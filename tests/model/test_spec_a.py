"""Text A, row by row: feedforward networks, backpropagation, a regression. The numbers are the printed ones."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import fusedmlp as fm
from oracle import LOSSES, Case
from texts import CROP_BIAS, CROP_WEIGHT, CROP_X, CROP_Y, T, X, close, crop_model, network
from tolerance import summation
from trajectory import Training, epoch_losses, in_turn

CROP = {"loss": "mse", "batch_size": 3, "shuffle": False, "progress": False}
EPOCHS = {"cpu": 100, "python": 4}  # of five steps


def crop_training(epochs):
    start = {"0.weight": CROP_WEIGHT, "0.bias": CROP_BIAS}
    sgd = Case("SGD", {"lr": 1e-4, "momentum": 0.9})
    return Training([3, 2], [], "identity", "mse", sgd, CROP_X, CROP_Y, in_turn(15, 3, 5 * epochs), start)


def check_crop_end(model, dtype):
    """MSE and parameters after 100 epochs, in 5 and 4 decimals. A prediction adds 4 rounded terms, of magnitudes up to
    180 together, and its residual is 2 at most; so an error e of it is up to 4 e of the loss."""
    terms = 4 * 180
    loss, _ = model.loss_and_gradients(CROP_X, CROP_Y, "mse")
    close(loss, 0.67824, 5, dtype, roundings=8, scale=terms)
    weight, bias = model.parameters()
    close(weight, [[-0.3901, 0.8488, 0.6848], [-0.3052, 0.7951, 0.9032]], 4, dtype)
    close(bias, [-0.2856, 0.3249], 4, dtype)


def test_a1_forward_pass(backend, dtype):
    model = network("sigmoid", backend, dtype)
    close(model(X), [0.47388890], 8, dtype)

    weight, bias, output, output_bias = model.parameters()
    x = X.astype(dtype)
    a, z = backend.dense_forward(x, weight, bias, "sigmoid"), backend.dense_forward(x, weight, bias)
    close(z, [-0.7, 0.1], 8, dtype)
    close(a, [0.33181223, 0.52497919], 8, dtype)
    close(backend.dense_forward(a, output, output_bias), [-0.10453951], 8, dtype)
    close(backend.dense_forward(a, output, output_bias, "sigmoid"), [0.47388890], 8, dtype)


def test_a1b_backward_step(backend, dtype):
    model = network("sigmoid", backend, dtype)
    loss, gradients = model.loss_and_gradients(X, T, "binary_cross_entropy")
    close(loss, 0.74678238, 8, dtype)
    close(gradients["2.bias"], [-0.52611110], 8, dtype)  # δ_o, one row's
    close(gradients["2.weight"], [[-0.17457010, -0.27619738]], 8, dtype)
    close(gradients["0.bias"], [0.03499368, 0.02623990], 8, dtype)  # δ_h
    printed = np.array([[0.03499368, 0.02623990], [0, 0], [0.03499368, 0.02623990]])
    close(gradients["0.weight"], printed.T, 8, dtype)

    model.update(gradients, fm.SGD(0.9))
    weight, bias, output, output_bias = model.parameters()
    close(output, [[-0.14288691, 0.04857764]], 8, dtype)
    close(output_bias, [0.57349999], 8, dtype)
    close(weight.T, [[0.16850569, -0.32361591], [0.4, 0.1], [-0.53149431, 0.17638409]], 8, dtype)
    close(bias, [-0.43149431, 0.17638409], 8, dtype)
    close(model(X), [0.63498790], 8, dtype)


def test_a2_forward_pass_and_error(backend, dtype):
    model = network("relu", backend, dtype)
    weight, bias, *_ = model.parameters()
    x = X.astype(dtype)
    close(backend.dense_forward(x, weight, bias), [-0.7, 0.1], 8, dtype)
    close(backend.dense_forward(x, weight, bias, "relu"), [0, 0.1], 8, dtype)
    close(model(X), [0.08], 8, dtype)
    close(model(X) - T, [-0.92], 8, dtype)


def test_a3_forward_and_backward_pass(backend, dtype):
    model = network("relu", backend, dtype)
    loss, gradients = model.loss_and_gradients(X, T, "half_mse", reduction="sum")
    close(loss, 0.92**2 / 2, 8, dtype)
    close(gradients["2.weight"], [[0, -0.092]], 8, dtype)
    close(gradients["2.bias"], [-0.92], 8, dtype)
    close(gradients["0.bias"], [0, 0.184], 8, dtype)  # δ_h
    close(gradients["0.weight"].T, [[0, 0.184], [0, 0], [0, 0.184]], 8, dtype)

    model.update(gradients, fm.SGD(0.001))
    weight, bias, output, output_bias = model.parameters()
    close(output, [[-0.3, -0.199908]], 8, dtype)
    close(output_bias, [0.10092], 8, dtype)
    close(weight.T, [[0.2, -0.300184], [0.4, 0.1], [-0.5, 0.199816]], 8, dtype)
    close(bias, [-0.4, 0.199816], 8, dtype)
    close(model(X), [0.08103955], 8, dtype)


def test_a4_sigmoid_derivative_from_its_output(backend):
    """σ'(z) = a (1 - a) against central differences, whose own error at this step is below 1e-9."""
    z, step = np.linspace(-6, 6, 25)[None], 1e-5
    a = backend.activate(z, "sigmoid")
    got = backend.activation_backward(np.ones_like(z), a, "sigmoid")
    differences = (backend.activate(z + step, "sigmoid") - backend.activate(z - step, "sigmoid")) / (2 * step)
    np.testing.assert_allclose(got, differences, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got, a * (1 - a), rtol=0, atol=1e-15)


def test_a5_linear_regression(backend, dtype):
    model = crop_model(backend, dtype)
    first = [[58.2296, 35.5923], [73.3967, 44.9295], [94.4861, 36.2899]]
    close(model(CROP_X)[:3], first, 4, dtype, roundings=8, scale=180)
    loss, _ = model.loss_and_gradients(CROP_X, CROP_Y, "mse")
    close(loss, 2480.257, 3, dtype, roundings=40, scale=2480.257)

    epochs = EPOCHS[backend.name]
    history = model.fit(CROP_X, CROP_Y, epochs=epochs, optimizer=fm.SGD(1e-4, momentum=0.9), **CROP)
    task = crop_training(epochs)
    task.check(model, task.step_losses(crop_model(backend, dtype)))
    expected, _ = task.expected(dtype)
    means, bounds = (epoch_losses(one, task.batches, 5) for one in (expected.value, expected.tolerance))
    assert (np.abs(np.array(history.loss) - means) <= bounds).all()
    if epochs == 100:
        check_crop_end(model, dtype)


def test_a5_text_weights(backend, dtype):
    """What `torch.manual_seed(42); nn.Linear(3, 2)` starts with, and the text's own first error, a float32 itself."""
    torch.manual_seed(42)
    model = fm.MLP([3, 2], dtype=dtype, backend=backend)
    model.load_state_dict({f"0.{name}": value for name, value in torch.nn.Linear(3, 2).state_dict().items()})
    loss, _ = model.loss_and_gradients(CROP_X, CROP_Y, "mse")
    close(loss, 2480.3708, 4, np.float32, roundings=40, scale=2480.3708)


def test_a6_data_handling(backend, dtype):
    """Batches of 4 of 15 rows, the last of 3; the shuffled order is the seed's and the epoch's, on every backend."""
    x, y = np.arange(15.0)[:, None], np.arange(15.0)
    plain = list(fm.batches(x, y, 4, shuffle=False))
    assert [len(rows) for rows, _ in plain] == [4, 4, 4, 3]
    assert np.array_equal(np.concatenate([rows for _, rows in plain]), y)
    orders = [np.concatenate([b for _, b in fm.batches(x, y, 4, seed=s, epoch=e)]) for s in (0, 1) for e in (0, 1)]
    assert all(np.array_equal(np.sort(order), y) for order in orders)
    assert len({order.tobytes() for order in orders}) == 4
    assert orders[1].tobytes() == np.concatenate([b for _, b in fm.batches(x, y, 4, seed=0, epoch=1)]).tobytes()

    def by_hand(model, epochs):
        for epoch in epochs:
            for batch_x, batch_y in fm.batches(CROP_X, CROP_Y, 4, seed=3, epoch=epoch):
                _, gradients = model.loss_and_gradients(batch_x, batch_y, "mse")
                model.update(gradients, optimizer)

    model, optimizer = crop_model(backend, dtype), fm.SGD(1e-5)
    by_hand(model, range(3))
    fitted = crop_model(backend, dtype)
    fitted.fit(CROP_X, CROP_Y, loss="mse", epochs=3, batch_size=4, optimizer=fm.SGD(1e-5), seed=3, progress=False)
    assert all(map(np.array_equal, model.parameters(), fitted.parameters()))

    # The short batch's mean is over its own rows.
    short = crop_model(backend, dtype)
    loss, _ = short.loss_and_gradients(CROP_X[12:], CROP_Y[12:], "mse")
    history = short.fit(CROP_X[12:], CROP_Y[12:], loss="mse", epochs=1, batch_size=4, progress=False)
    assert history.loss == [loss]


def test_a7_dense_layer(backend, dtype):
    model = fm.MLP([3, 2], dtype=dtype, backend=backend)
    assert model.n_parameters == 8
    assert [array.shape for array in model.parameters()] == [(2, 3), (2,)]
    assert {name: array.shape for name, array in model.state_dict().items()} == {"0.weight": (2, 3), "0.bias": (2,)}
    weight, bias = model.parameters()
    expected = CROP_X @ weight.T.astype(np.float64) + bias
    bound = summation(dtype, 4, np.abs(CROP_X) @ np.abs(weight.T) + np.abs(bias))
    assert (np.abs(model(CROP_X) - expected) <= bound).all()


@pytest.mark.parametrize("loss, peer", [("mse", torch.nn.MSELoss), ("cross_entropy", torch.nn.CrossEntropyLoss)])
def test_a8_losses(backend, dtype, loss, peer, rng):
    model = fm.MLP([5, 4], dtype=dtype, backend=backend)
    x = rng.normal(size=(11, 5)).astype(dtype)
    y = rng.normal(size=(11, 4)).astype(dtype) if loss == "mse" else rng.integers(0, 4, 11)
    layer = torch.nn.Linear(5, 4).double()
    layer.load_state_dict({name: torch.tensor(value) for name, value in zip(("weight", "bias"), model.parameters())})  # noqa: B905
    target = torch.tensor(y).double() if loss == "mse" else torch.tensor(y)
    expected = peer()(layer(torch.tensor(x).double()), target)
    expected.backward()
    got, gradients = model.loss_and_gradients(x, y, loss)
    bound = summation(dtype, 11 * 4 + 6, 4 * (1 + expected.item()))
    assert abs(got - expected.item()) <= bound
    for name in ("weight", "bias"):
        assert (np.abs(gradients[f"0.{name}"] - getattr(layer, name).grad.numpy()) <= 4 * bound).all()


def test_a8_names():
    for name in ("mse", "cross_entropy"):
        assert name in LOSSES


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a9_sgd_with_momentum(backend, dtype, momentum, rng):
    """v ← μ v + g, w ← w - η v, written out in float64."""
    model, optimizer = crop_model(backend, dtype), fm.SGD(0.01, momentum=momentum)
    expected = [np.array(value) for value in (CROP_WEIGHT, CROP_BIAS)]
    velocity = [np.zeros_like(value) for value in expected]
    for _ in range(10):
        gradients = [rng.normal(size=value.shape).astype(dtype) for value in expected]
        model.update(dict(zip(("0.weight", "0.bias"), gradients, strict=True)), optimizer)
        for w, v, g in zip(expected, velocity, gradients, strict=True):
            v *= momentum
            v += g
            w -= 0.01 * v
    # Each of 10 steps rounds v and w three times; |v| stays below 40, |w| below 5.
    for got, value in zip(model.parameters(), expected, strict=True):
        assert (np.abs(got - value) <= summation(dtype, 60, 5.0)).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a10_training_loop(backend, dtype, optimizer, capsys):
    """The text's loop with public names: it ends at A5's numbers, and equals `fit` bit for bit."""

    def make():
        return fm.SGD(lr=1e-4, momentum=0.9) if optimizer == "sgd" else fm.Adam(lr=0.1)

    epochs = EPOCHS[backend.name]
    model, chosen, losses = crop_model(backend, dtype), make(), []
    for epoch in range(epochs):
        for x, y in fm.batches(CROP_X, CROP_Y, batch_size=3, shuffle=False, epoch=epoch):
            loss, gradients = model.loss_and_gradients(x, y, loss="mse")
            print("dL/dw", gradients["0.weight"], "dL/db", gradients["0.bias"])
            model.update(gradients, chosen)
            losses.append(loss)
    assert capsys.readouterr().out.count("dL/dw") == 5 * epochs
    if optimizer == "sgd" and epochs == 100:
        check_crop_end(model, dtype)

    fitted = crop_model(backend, dtype)
    history = fitted.fit(CROP_X, CROP_Y, epochs=epochs, optimizer=make(), **CROP | {"progress": True})
    assert "epoch" in capsys.readouterr().err
    assert all(map(np.array_equal, model.parameters(), fitted.parameters()))
    means = np.array(losses).reshape(-1, 5).mean(1)
    np.testing.assert_allclose(history.loss, means, rtol=8 * np.finfo(np.float64).eps)


def test_a11_reproducible_seeding(backend, dtype):
    def trained(seed):
        model = fm.MLP([3, 6, 2], seed=seed, dtype=dtype, backend=backend)
        model.fit(CROP_X / 100, CROP_Y / 100, loss="mse", epochs=3, batch_size=4, progress=False)
        return np.concatenate([array.ravel() for array in model.parameters()])

    assert trained(5).tobytes() == trained(5).tobytes()
    assert not np.array_equal(trained(5), trained(6))


def test_a11_device_choice():
    """GPU where there is one, the processor otherwise; an explicit choice that cannot be met is an error."""
    expected = "cuda" if "cuda" in fm.available_backends() else "cpu"
    code = "import fusedmlp as fm; print(fm.get_backend().name, repr(fm.MLP([3, 2])))"
    environment = {"FUSEDMLP_BACKEND": ""}
    assert run(code, environment).split()[0] == expected
    assert "backend='python'" in run(code, {"FUSEDMLP_BACKEND": "python"})
    if expected == "cpu":
        with pytest.raises(fm.BackendUnavailable, match="cuda"):
            fm.MLP([3, 2], backend="cuda")


def run(code, environment):
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def diabetes():
    """354 rows to learn from and 88 held out, standardized by the first."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(442)
    learn, held = order[:354], order[354:]
    x = (x - x[learn].mean(0)) / x[learn].std(0)
    y = (y - y[learn].mean()) / y[learn].std()
    return x[learn], y[learn], x[held], y[held]


def r_squared(predicted, y):
    return 1 - ((predicted - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()


def exercise(x, y, batches, start):
    return Training([10, 16, 1], "identity", "identity", "mse", Case("SGD", {"lr": 0.01}), x, y, batches, start)


def test_a12_closing_exercise(backend, dtype):
    x, y, held_x, held_y = diabetes()
    model = fm.MLP([10, 16, 1], activation="identity", dtype=dtype, backend=backend)
    start = fm.MLP([10, 16, 1], dtype="float64", backend="python").state_dict()
    numbers = np.arange(354)

    def order(epoch):
        return [rows for rows, _ in fm.batches(numbers, numbers, 8, epoch=epoch)]

    if backend.name != "cpu":
        task = exercise(x, y, order(0)[:20], start)
        task.check(model, task.step_losses(model))
        return

    options = {"loss": "mse", "batch_size": 8, "optimizer": fm.SGD(0.01), "progress": False}
    history = model.fit(x, y, epochs=1000, **options)
    assert history.steps == 1000 * 45
    reached = r_squared(model(held_x)[:, 0], held_y)
    _, state = exercise(x, y, [rows for epoch in range(1000) for rows in order(epoch)], start).oracle()
    hidden = held_x @ state["0.weight"].T + state["0.bias"]
    peer = r_squared((hidden @ state["2.weight"].T + state["2.bias"])[:, 0], held_y)
    assert abs(reached - peer) <= 0.001
    assert reached >= 0.343 - 0.01


def test_a12_least_squares():
    """The figure that the exercise is held against."""
    x, y, held_x, held_y = diabetes()
    solution, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    assert abs(r_squared(np.c_[held_x, np.ones(len(held_x))] @ solution, held_y) - 0.343) < 5e-4
