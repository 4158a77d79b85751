"""Text B, row by row: the general derivation. The text writes y for the prediction; here a is, and t the truth."""

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATION_CASES, Case
from texts import T, X, close, network
from tolerance import summation
from trajectory import Training, in_turn

DEPTHS = [[4, 3], [4, 5, 3], [4, 7, 6, 3], [4, 1, 8, 2, 3]]


def start(sizes, seed=0):
    return fm.MLP(sizes, dtype="float64", seed=seed, backend="python").state_dict()


def gradients_of(sizes, activation, output, loss, x, y, parameters, **options):
    """(loss, gradients) in PyTorch, float64: one step of plain descent at rate 1 moves by the gradient."""
    losses, after = oracle.train(
        sizes, activation, output, loss, Case("SGD", {"lr": 1.0}), x, y, [np.arange(len(x))], parameters, **options
    )
    return losses[0], {name: parameters[name].astype(np.float64) - after[name] for name in parameters}


def check_gradients(model, x, y, activation, output, loss, **options):
    """Against PyTorch's autograd. Forward and backward add up at most 2 sum(sizes) + rows terms of magnitudes up to a
    few; 16 stands for them, and for the functions' own roundings."""
    parameters, sizes = model.state_dict(), [model.parameters()[0].shape[1]]
    sizes += [array.shape[0] for name, array in parameters.items() if name.endswith("weight")]
    dtype = parameters["0.weight"].dtype
    got, gradients = model.loss_and_gradients(x, y, loss, **options)
    value, expected = gradients_of(sizes, activation, output, loss, x, y, parameters, **options)
    scale = 16.0 * (1 if options.get("reduction", "mean") == "mean" else len(x))
    bound = summation(dtype, 2 * sum(sizes) + len(x), scale * (1 + abs(value)))
    assert abs(got - value) <= bound
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert gradient.shape == expected[name].shape
        assert (np.abs(gradient - expected[name]) <= bound).all(), name


@pytest.mark.parametrize("sizes", DEPTHS, ids=str)
def test_b1_any_depth_and_width(backend, dtype, sizes, rng):
    model = fm.MLP(sizes, activation="tanh", output="tanh", dtype=dtype, backend=backend)
    x = rng.normal(size=(9, 4)).astype(dtype)
    a, bound = x.astype(np.float64), 0.0
    for weight, bias in zip(model.parameters()[::2], model.parameters()[1::2], strict=True):
        assert weight.shape == (len(bias), a.shape[1])
        steepest = np.abs(weight).sum(1).max()
        bound = bound * steepest + summation(dtype, 16 + weight.shape[1], 1 + np.abs(a).max() * steepest)
        a = np.tanh(a @ weight.T.astype(np.float64) + bias)
    assert (np.abs(model(x) - a) <= bound).all()
    one = model(x[0])
    assert one.shape == (3,)
    assert (np.abs(one - a[0]) <= bound).all()


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_b2_activations(backend, dtype, case, rng):
    """Hidden and at the output: sigmoid, tanh, ReLU, leaky ReLU, softmax, and all the others."""
    rule = case.rule(fm.activations)
    model = fm.MLP([4, 6, 3], activation=rule, output=rule, dtype=dtype, backend=backend)
    x, y = rng.normal(size=(11, 4)).astype(dtype), rng.normal(size=(11, 3)).astype(dtype)
    check_gradients(model, x, y, case, case, "mse")
    if case.name == "softmax":
        assert (np.abs(model(x).sum(1) - 1) <= summation(dtype, 8, 1.0)).all()


def test_b3_squared_error(backend, dtype):
    model = network("sigmoid", backend, dtype)
    loss, gradients = model.loss_and_gradients(X, T, "mse", reduction="sum")
    close(loss, 0.27679289, 8, dtype)
    _, slope = backend.mse(model(X)[None], T[None].astype(dtype), reduction="sum")
    close(slope, [[-1.05222220]], 8, dtype)
    close(gradients["2.bias"], [-0.26233816], 8, dtype)
    close(gradients["2.weight"], [[-0.08704701, -0.13772207]], 8, dtype)
    close(gradients["0.bias"], [0.01744912, 0.01308417], 8, dtype)
    close(gradients["0.weight"], np.outer([0.01744912, 0.01308417], X), 8, dtype)
    model.update(gradients, fm.SGD(0.9))
    close(model(X), [0.55616153], 8, dtype)


@pytest.mark.parametrize("sizes", DEPTHS, ids=str)
@pytest.mark.parametrize("rows", [1, 13])
def test_b4_gradients_of_every_layer(backend, dtype, sizes, rows, rng):
    model = fm.MLP(sizes, activation="sigmoid", output="tanh", dtype=dtype, backend=backend)
    x, y = rng.normal(size=(rows, 4)).astype(dtype), rng.normal(size=(rows, 3)).astype(dtype)
    check_gradients(model, x, y, "sigmoid", "tanh", "mse", reduction="sum")


def test_b4_by_the_text_formulas(backend, dtype, rng):
    """δᴸ, δˡ, ∂W, ∂b and ∂x written out in float64, and ∂x from the kernel that gives it."""
    model = fm.MLP([4, 5, 3], activation="sigmoid", output="sigmoid", dtype=dtype, backend=backend)
    x, y = rng.normal(size=(7, 4)).astype(dtype), rng.normal(size=(7, 3)).astype(dtype)
    w1, b1, w2, b2 = (array.astype(np.float64) for array in model.parameters())
    a1 = 1 / (1 + np.exp(-(x @ w1.T + b1)))
    a2 = 1 / (1 + np.exp(-(a1 @ w2.T + b2)))
    delta2 = 2 * (a2 - y) * a2 * (1 - a2)
    delta1 = delta2 @ w2 * a1 * (1 - a1)
    expected = {"0.weight": delta1.T @ x, "0.bias": delta1.sum(0), "2.weight": delta2.T @ a1, "2.bias": delta2.sum(0)}
    _, gradients = model.loss_and_gradients(x, y, "mse", reduction="sum")
    bound = summation(dtype, 64, 7 * 4.0)
    for name, value in expected.items():
        assert (np.abs(gradients[name] - value) <= bound).all(), name

    weight, bias, *_ = model.parameters()
    _, backprop = backend.dense(x, weight, bias, "sigmoid")
    dx, _, _ = backprop((delta2 @ w2).astype(dtype))
    assert (np.abs(dx - delta1 @ w1) <= bound).all()


def test_b5_batch_loss_and_update(backend, dtype, rng):
    """The sum over the rows is the sum of the rows' own losses and gradients; the mean is that over their number."""
    model = fm.MLP([4, 5, 3], activation="tanh", dtype=dtype, backend=backend)
    x, y = rng.normal(size=(6, 4)).astype(dtype), rng.normal(size=(6, 3)).astype(dtype)
    single = [model.loss_and_gradients(x[i], y[i], "mse", reduction="sum") for i in range(6)]
    total, gradients = model.loss_and_gradients(x, y, "mse", reduction="sum")
    mean, mean_gradients = model.loss_and_gradients(x, y, "mse")
    bound = summation(dtype, 40, 8 * (1 + total))
    assert abs(total - sum(loss for loss, _ in single)) <= bound
    assert abs(mean - total / 18) <= bound
    before = model.state_dict()
    model.update(gradients, fm.SGD(0.01))
    for name, value in model.state_dict().items():
        assert (np.abs(gradients[name] - sum(g[name].astype(np.float64) for _, g in single)) <= bound).all(), name
        assert (np.abs(mean_gradients[name] - gradients[name] / 18) <= bound).all(), name
        expected = before[name].astype(np.float64) - 0.01 * gradients[name]
        assert (np.abs(value - expected) <= summation(dtype, 3, 1 + np.abs(expected))).all(), name


LOGITS = [0.0, 1.0, -30.0, 88.0, -90.0, 1e4, -1e4, 1e30]


@pytest.mark.parametrize("form", ["index", "onehot", "distribution"])
def test_b6_cross_entropy(backend, dtype, form, rng):
    """δ = a - t, finite and PyTorch's for every finite logit: the bias is the logit."""
    z = np.array([rng.permutation(LOGITS)[:5] for _ in range(8)])
    y = oracle.target(form, 8, 5, rng, dtype)
    for i in range(8):
        model = fm.MLP([1, 5], output="softmax", init=[np.zeros((5, 1)), z[i]], dtype=dtype, backend=backend)
        loss, gradients = model.loss_and_gradients([0.0], y[i : i + 1], "cross_entropy")
        expected = oracle.loss(Case("cross_entropy"), z[i : i + 1].astype(dtype), y[i : i + 1])
        check_fused(loss, gradients["0.bias"], expected)
        share = np.eye(5)[y[i]] if form == "index" else y[i]
        assert (np.abs(gradients["0.bias"] - (model([0.0]) * share.sum() - share)) <= summation(dtype, 32, 2.0)).all()


@pytest.mark.parametrize("t", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("z", LOGITS)
def test_b6_binary_cross_entropy(backend, dtype, z, t):
    model = fm.MLP([1, 1], output="sigmoid", init=[[[0.0]], [z]], dtype=dtype, backend=backend)
    loss, gradients = model.loss_and_gradients([0.0], [t], "binary_cross_entropy")
    case = Case("binary_cross_entropy_with_logits")
    check_fused(loss, gradients["0.bias"], oracle.loss(case, np.array([[z]], dtype), np.array([[t]], dtype)))
    assert (np.abs(gradients["0.bias"] - (model([0.0]) - dtype.type(t))) <= summation(dtype, 32, 2.0)).all()


def check_fused(loss, gradient, expected):
    value, slope = expected
    assert np.isfinite(loss)
    value.check(np.array(loss, value.dtype))
    slope.check(gradient[None])


def test_b6_binary_and_categorical_agree(backend, dtype, rng):
    """Binary cross-entropy of z is the categorical one of the logits (z, 0)."""
    z = rng.normal(size=9).astype(dtype)
    for logit, t in zip(z, rng.integers(0, 2, 9), strict=True):
        binary = fm.MLP([1, 1], output="sigmoid", init=[[[0]], [logit]], dtype=dtype, backend=backend)
        both = fm.MLP([1, 2], output="softmax", init=[[[0], [0]], [logit, 0]], dtype=dtype, backend=backend)
        one, _ = binary.loss_and_gradients([0], [t], "binary_cross_entropy")
        two, _ = both.loss_and_gradients([0], [1 - t], "cross_entropy")
        assert abs(one - two) <= summation(dtype, 40, 1 + abs(logit))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_b6_logits_or_probabilities(backend, dtype, loss, rng):
    """With output identity the same loss reads logits: the same training, bit for bit."""
    output = "softmax" if loss == "cross_entropy" else "sigmoid"
    x, y = rng.normal(size=(20, 4)).astype(dtype), rng.integers(0, 2, (20, 3)).astype(dtype)
    models = [fm.MLP([4, 6, 3], output=name, dtype=dtype, backend=backend) for name in (output, "identity")]
    histories = [model.fit(x, y, loss=loss, epochs=2, batch_size=8, progress=False) for model in models]
    assert histories[0].loss == histories[1].loss
    assert all(map(np.array_equal, models[0].parameters(), models[1].parameters()))
    np.testing.assert_array_equal(backend.activate(models[1](x), output), models[0](x))


def test_b7_binary_classification(backend, dtype):
    """Breast cancer with one sigmoid output, a stratified fifth held out."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    x, held_x, y, held_y = train_test_split(x, y, test_size=0.2, stratify=y, random_state=0)
    mean, deviation = x.mean(0), x.std(0)
    x, held_x = (x - mean) / deviation, (held_x - mean) / deviation
    sizes, loss = [30, 16, 1], "binary_cross_entropy"
    model = fm.MLP(sizes, output="sigmoid", dtype=dtype, backend=backend)
    if backend.name != "cpu":
        adam = Case("Adam", {"lr": 1e-3})
        task = Training(sizes, "relu", "sigmoid", loss, adam, x, y, in_turn(len(x), 16, 20), start(sizes))
        task.check(model, task.step_losses(model))
        return
    history = model.fit(x, y, loss=loss, epochs=30, batch_size=16, validation_data=(held_x, held_y), progress=False)
    predicted = model(held_x)[:, 0]
    assert ((predicted > 0.5) == held_y).mean() >= 0.95
    assert history.val_accuracy[-1] == ((predicted > 0.5) == held_y).mean()


VOCABULARY = 5000


def bigrams(rng, rows):
    """(tokens, next tokens): tokens by Zipf's law, most of them followed by a token of their own."""
    probabilities = 1 / np.arange(1.0, VOCABULARY + 1)
    draws = rng.choice(VOCABULARY, (3, rows), p=probabilities / probabilities.sum())
    follower = rng.permutation(VOCABULARY)
    return draws[0], np.where(draws[1] % 4 > 0, follower[draws[0]], draws[2])


def entropy(tokens):
    shares = np.bincount(tokens) / len(tokens)
    return -(shares[shares > 0] * np.log(shares[shares > 0])).sum()


def test_b7_next_token(backend, dtype, rng):
    """A distribution over 5,000 tokens: a token is 64 fixed numbers, the output the next one's probabilities."""
    cpu = backend.name == "cpu"
    token, following = bigrams(rng, 16_384 if cpu else 160)
    codes = rng.normal(size=(VOCABULARY, 64))
    sizes = [64, 64, VOCABULARY]
    model = fm.MLP(sizes, activation="tanh", output="softmax", dtype=dtype, backend=backend)
    rows = model(codes[token[:50]])
    assert (np.abs(rows.sum(1) - 1) <= summation(dtype, VOCABULARY, 1.0)).all()
    adam = Case("Adam", {"lr": 3e-3})
    if not cpu:
        task = Training(
            sizes, "tanh", "softmax", "cross_entropy", adam, codes[token], following, in_turn(160, 8, 20), start(sizes)
        )
        task.check(model, task.step_losses(model))
        return
    history = model.fit(
        codes[token], following, loss="cross_entropy", epochs=8, optimizer=fm.Adam(3e-3), batch_size=128, progress=False
    )
    assert history.loss[0] > history.loss[-1]
    assert history.loss[-1] < entropy(following)


@pytest.mark.parametrize("sizes", [[4, 3], [4, 9, 3], [4, 5, 6, 3]], ids=str)
@pytest.mark.parametrize("rate, batch, epochs", [(0.1, 1, 1), (0.01, 7, 3), (0.05, 100, 2)])
def test_b8_hyperparameters(backend, dtype, sizes, rate, batch, epochs, rng):
    """Depth, widths, learning rate, batch size and epochs are free, each with PyTorch's result."""
    x, y = rng.normal(size=(23, 4)).astype(np.float32), rng.integers(0, 3, 23)
    per_epoch = -(-23 // batch)
    task = Training(
        sizes, "tanh", "softmax", "cross_entropy", Case("SGD", {"lr": rate}), x, y,
        in_turn(23, batch, per_epoch * epochs), start(sizes),
    )  # fmt: skip
    model = task.model(backend, dtype)
    history = model.fit(
        x, y, loss="cross_entropy", epochs=epochs, optimizer=fm.SGD(rate), batch_size=batch, shuffle=False,
        progress=False,
    )  # fmt: skip
    assert (history.epochs, history.steps, history.rows) == (epochs, per_epoch * epochs, 23 * epochs)
    _, parameters = task.expected(dtype)
    for name, value in model.state_dict().items():
        parameters[name].check(value, name)


def test_weighted_mean(backend, dtype, rng):
    """Sample weights, as the derivation of the batch loss has them: the mean divides by their sum."""
    model = fm.MLP([4, 5, 3], activation="tanh", dtype=dtype, backend=backend)
    x, y = rng.normal(size=(9, 4)).astype(dtype), rng.normal(size=(9, 3)).astype(dtype)
    weights = rng.random(9).astype(dtype)
    for reduction in ("mean", "sum"):
        check_gradients(model, x, y, "tanh", "identity", "mse", reduction=reduction, sample_weight=weights)
