"""The model apart from its training: what it is made of, takes, gives, and refuses."""

import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch

import fusedmlp as fm
from fusedmlp.backends import Plan
from fusedmlp.kernels.initializers import initial_parameters
from oracle import ACTIVATION_CASES, ACTIVATIONS, Apply
from tolerance import summation

pytestmark = pytest.mark.usefixtures("typed")

SIZES = [4, 5, 3]


@pytest.fixture
def model(backend, dtype):
    return fm.MLP(SIZES, activation="tanh", dtype=dtype, backend=backend)


def sequential(sizes, case):
    """torch.nn.Sequential(Linear, activation, Linear, ...) in float64."""
    modules = []
    for inputs, outputs in pairwise(sizes):
        modules += [torch.nn.Linear(inputs, outputs), Apply(case)]
    return torch.nn.Sequential(*modules[:-1]).double()


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_state_goes_to_pytorch_and_back(backend, dtype, case, rng):
    model = fm.MLP([4, 7, 6, 3], activation=case.rule(fm.activations), dtype=dtype, backend=backend)
    network = sequential([4, 7, 6, 3], case)
    network.load_state_dict({name: torch.from_numpy(value).double() for name, value in model.state_dict().items()})
    x = rng.normal(size=(9, 4)).astype(dtype)
    expected = network(torch.tensor(x).double()).detach().numpy()
    assert (np.abs(model(x) - expected) <= summation(dtype, 60, 4.0)).all()

    other = fm.MLP([4, 7, 6, 3], activation=case.rule(fm.activations), dtype=dtype, backend=backend, seed=1)
    assert not np.array_equal(other(x), model(x))
    other.load_state_dict(network.state_dict())
    np.testing.assert_array_equal(other(x), model(x))


def test_state_dict_holds_copies(model):
    state = model.state_dict()
    state["0.weight"][...] = 7
    with pytest.raises(ValueError, match="read-only"):
        model.parameters()[0][...] = 7
    assert not (model.state_dict()["0.weight"] == 7).any()


def test_parameters_are_listed_in_order(model):
    state = model.state_dict()
    assert list(state) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(map(np.array_equal, model.parameters(), state.values()))
    assert model.n_parameters == 4 * 5 + 5 + 5 * 3 + 3


def test_without_bias(backend, dtype, rng):
    model = fm.MLP(SIZES, activation="relu", bias=False, dtype=dtype, backend=backend)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert model.n_parameters == 35
    x = rng.normal(size=(6, 4)).astype(dtype)
    first, second = (weight.astype(np.float64) for weight in model.parameters())
    assert (np.abs(model(x) - np.maximum(x @ first.T, 0) @ second.T) <= summation(dtype, 16, 4.0)).all()
    history = model.fit(x, np.ones((6, 3)), loss="mse", epochs=2, progress=False)
    assert history.loss[1] < history.loss[0]


def test_an_activation_for_each_layer(backend, dtype, rng):
    rules = [fm.activations.leaky_relu(slope=0.2), "tanh"]
    model = fm.MLP([4, 5, 6, 3], activation=rules, dtype=dtype, backend=backend)
    w1, b1, w2, b2, w3, b3 = (array.astype(np.float64) for array in model.parameters())
    x = rng.normal(size=(6, 4)).astype(dtype)
    z = x @ w1.T + b1
    expected = np.tanh(np.where(z > 0, z, 0.2 * z) @ w2.T + b2) @ w3.T + b3
    assert (np.abs(model(x) - expected) <= summation(dtype, 40, 4.0)).all()


@pytest.mark.parametrize("output", list(ACTIVATIONS))
def test_output_says_what_the_model_returns(backend, dtype, output, rng):
    model = fm.MLP(SIZES, activation="tanh", output=output, dtype=dtype, backend=backend)
    plain = fm.MLP(SIZES, activation="tanh", dtype=dtype, backend=backend)
    x = rng.normal(size=(6, 4)).astype(dtype)
    expected = ACTIVATIONS[output].value(torch.tensor(plain(x)).double()).numpy()
    assert (np.abs(model(x) - expected) <= summation(dtype, 40, 4.0)).all()


def test_given_arrays(backend, dtype):
    state = fm.MLP(SIZES, seed=3, dtype=dtype, backend=backend).state_dict()
    for init in (state, list(state.values()), {name: value.tolist() for name, value in state.items()}):
        made = fm.MLP(SIZES, init=init, dtype=dtype, backend=backend)
        assert all(map(np.array_equal, made.parameters(), state.values()))


def test_initial_weights_are_the_seeds(model, dtype):
    expected = initial_parameters(model._network, "torch", 0)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, expected[name].astype(dtype))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 1000])
def test_prediction_in_pieces(model, dtype, batch_size, rng):
    x = rng.normal(size=(7, 4)).astype(dtype)
    y = model(x, batch_size)
    assert (y.shape, y.dtype) == ((7, 3), dtype)
    assert (np.abs(y - model(x)) <= summation(dtype, 40, 4.0)).all()


def test_long_prediction_is_cut_into_calls(model, dtype, rng, monkeypatch):
    """Ctrl-C is heard between two calls, each of about a fifth of a second; the pieces are the same to the bit."""
    x, launched = rng.normal(size=(7, 4)).astype(dtype), []
    whole = model(x, 2)
    executor, launch = model._executor, model._backend.launch
    monkeypatch.setattr(executor, "_steps_of_a_call", lambda key: 3)

    def recorded(*arguments):
        launched.append(arguments[-3:-1])  # the first step of a call, and the one after its last
        return launch(*arguments)

    monkeypatch.setattr(model._backend, "launch", recorded)
    np.testing.assert_array_equal(model(x, 2), whole)
    assert launched == [(0, 3), (3, 4)]


@pytest.mark.parametrize("rows", [1, 3])
def test_predictions_of_as_many_rows(model, dtype, rows, rng):
    """What is kept from one to the next is neither its rows nor its result, and knows of every change between them."""
    x = rng.normal(size=(6, rows, 4)).astype(dtype)

    def fresh(rows):
        other = fm.MLP(SIZES, activation="tanh", dtype=dtype, backend=model._backend)
        other.load_state_dict(model.state_dict())
        return other(rows)

    first = model(x[0])
    copy, kept = first.copy(), weakref.ref(first)
    np.testing.assert_array_equal(model(x[1]), fresh(x[1]))
    np.testing.assert_array_equal(first, copy)
    del first
    assert kept() is None
    _, gradients = model.loss_and_gradients(x[2], np.ones((rows, 3)), "mse")
    np.testing.assert_array_equal(model(x[2]), fresh(x[2]))
    model.update(gradients, fm.SGD(0.1))
    np.testing.assert_array_equal(model(x[3]), fresh(x[3]))
    model.fit(x[3], np.ones((rows, 3)), loss="mse", epochs=1, optimizer="adam", progress=False)
    np.testing.assert_array_equal(model(x[4]), fresh(x[4]))
    model(np.ones((100, 4)))
    np.testing.assert_array_equal(model(x[5]), fresh(x[5]))


def test_one_row_and_none(model, dtype, rng):
    x = rng.normal(size=4).astype(dtype)
    assert model(x).shape == (3,)
    assert model(x[None]).shape == (1, 3)
    np.testing.assert_array_equal(model(x), model(x[None])[0])
    assert model(np.empty((0, 4))).shape == (0, 3)


def test_predicting_keeps_the_optimizers_state(model, dtype, rng):
    """What a prediction or a loss needs room for must not lie where the momentum does."""
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    alone = fm.MLP(SIZES, activation="tanh", dtype=dtype, backend=model._backend)
    options = {"loss": "mse", "epochs": 1, "optimizer": "adam", "batch_size": 4, "progress": False}
    for _ in range(3):
        model.fit(x, y, **options)
        model(np.ones((50, 4)))
        model.loss_and_gradients(x, y, "mse")
        alone.fit(x, y, **options)
    assert all(map(np.array_equal, model.parameters(), alone.parameters()))


def test_each_optimizer_has_a_state_of_its_own(model, dtype, rng):
    """Two optimizers in turn: each goes on from its own last step."""
    gradients = [
        {name: rng.normal(size=v.shape).astype(dtype) for name, v in model.state_dict().items()} for _ in range(4)
    ]
    mine, other = fm.SGD(0.1, momentum=0.9), fm.SGD(0.0, momentum=0.5)
    for gradient in gradients:
        model.update(gradient, mine)
        model.update(gradient, other)
        model.update(gradient, fm.Adam(0.0))
    alone = fm.MLP(SIZES, activation="tanh", dtype=dtype, backend=model._backend)
    for gradient in gradients:
        alone.update(gradient, mine)
    assert all(map(np.array_equal, model.parameters(), alone.parameters()))


def test_repr_and_describe(model, dtype):
    name = model._backend.name
    assert repr(model) == f"MLP([4, 5, 3], activation='tanh', output='identity', dtype='{dtype}', backend='{name}')"
    model(np.ones((2, 4)))
    text = model.describe()
    for part in (repr(model), "43 parameters", "4 -> 5", "5 -> 3", "tanh", name):
        assert part in text


def test_a_call_within_a_call(model):
    """As a signal's handler could make it: the same thread, while the buffer is in use."""
    with model._turn, pytest.raises(RuntimeError, match="in a call already"):
        model(np.ones((4, 4)))
    assert model(np.ones((4, 4))).shape == (4, 3)


def test_gradients_of_many_rows_leave_the_plan_of_a_training_alone(monkeypatch, rng):
    model = fm.MLP(SIZES, backend="cpu")
    monkeypatch.setattr(
        model._backend, "plan", lambda network, dtype, rows, precision: Plan(1 if rows < 50 else 2, ("rows", "rows"))
    )
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(60, 3))
    model.loss_and_gradients(x, y, "mse")
    model.fit(x[:20], y[:20], loss="mse", epochs=1, batch_size=8, progress=False)
    shown = model.describe()
    assert "batches of 8: 1 worker" in shown and "batches of 60: 2 workers" in shown


def test_backend_is_the_object(backend):
    assert fm.MLP(SIZES, backend=backend).backend is backend
    assert fm.MLP(SIZES, backend="python").backend is fm.get_backend("python")


def test_plan_is_the_one_that_fit_trains_with(backend, monkeypatch, rng):
    """Chosen once, whoever asks first; it is what describe prints, and what another model takes for the same bits."""
    model, x, y = fm.MLP(SIZES, backend=backend), rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    training = {"loss": "mse", "epochs": 2, "progress": False}
    asked, plan = model.plan(8), model.backend.plan
    monkeypatch.setattr(model.backend, "plan", lambda *of: pytest.fail("chosen again") if of[2] == 8 else plan(*of))
    history = model.fit(x, y, batch_size=8, **training)
    assert model.plan(8) is asked and f"\nbatches of 8: {asked}" in model.describe()
    other = fm.MLP(SIZES, backend=backend, plan=eval(repr(asked), {"Plan": Plan}))
    assert other.plan(8) == other.plan(3) == asked and f"\nplan as given: {asked}" in other.describe()
    assert other.fit(x, y, batch_size=8, **training).loss == history.loss
    assert all(map(np.array_equal, other.parameters(), model.parameters()))
    monkeypatch.undo()
    model.fit(x, y, batch_size=100, **training)
    assert f"\nbatches of 20: {model.plan(20)}" in model.describe(), "no batch has more rows than there are"


def test_predictions_of_other_numbers_of_rows_in_turns(backend, rng):
    """Each is kept, and the next of as many rows finds its place in the buffer; what an optimizer keeps lies apart."""
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    asked, alone = (fm.MLP([6, 5, 2], output="softmax", backend=backend, seed=1) for _ in range(2))
    for optimizers in ([fm.SGD(0.1)] * 2, [fm.Adam(0.1), fm.Adam(0.1)], [fm.SGD(0.1, momentum=0.9) for _ in range(2)]):
        for _ in range(2):
            for rows in (1, 40, 3, 1, 40, 3):
                np.testing.assert_allclose(asked(x[:rows]), asked(x)[:rows], rtol=1e-5)
            for model, optimizer in zip((asked, alone), optimizers, strict=True):
                model.update(model.loss_and_gradients(x, y, "mse")[1], optimizer)
            for name, parameter in alone.state_dict().items():
                np.testing.assert_array_equal(asked.state_dict()[name], parameter)


def test_no_outgrown_buffer_is_kept(backend, rng):
    """A prediction is kept for the next of as many rows, and with it a buffer; not once that is too small."""
    model = fm.MLP([6, 5, 2], backend=backend)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(40, 2)).astype(np.float32)
    model(x[:1])
    first = weakref.ref(model._executor._buffer)
    model.fit(x, y, loss="mse", optimizer="adam", epochs=1, progress=False)
    assert first() is None
    model(x[:1])
    assert model(x[:1]).shape == (1, 2)


def test_plan_given_is_the_plan():
    given = Plan(2, ("out", "in"))
    assert fm.MLP(SIZES, backend="cpu", plan=given).plan(7) is given


@pytest.mark.parametrize("batch_size, error", [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_plan_of_what_is_no_batch_size(model, batch_size, error):
    check(lambda: model.plan(batch_size), error, ["batch_size", str(batch_size)])


def test_plan_in_a_callback(model):
    """A callback may ask, between two epochs."""
    x, y, plans = np.ones((4, 4)), np.ones((4, 3)), []
    ask = [lambda model, history: plans.append(model.plan(4))]
    model.fit(x, y, loss="mse", epochs=2, callbacks=ask, progress=False)
    assert plans[0] is plans[1]


def test_two_calls_at_once(model):
    """One thread is held inside a callback of fit; the other's call is an error, and afterwards all is well."""
    inside, leave = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        leave.wait(20)

    x, y = np.ones((4, 4)), np.ones((4, 3))
    options = {"loss": "mse", "epochs": 1, "progress": False}
    worker = threading.Thread(target=lambda: model.fit(x, y, callbacks=[wait], **options))
    worker.start()
    assert inside.wait(60)
    calls = [
        lambda: model(x),
        lambda: model.fit(x, y, **options),
        lambda: model.loss_and_gradients(x, y, "mse"),
        model.state_dict,
        lambda: model.plan(4),
        lambda: model.load_state_dict(fm.MLP(SIZES, backend="python").state_dict()),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="in a call already"):
            call()
    leave.set()
    worker.join(20)
    assert not worker.is_alive()
    assert model(x).shape == (4, 3)


GOOD = dict(fm.MLP(SIZES, backend="python").state_dict())
BAD_MODELS = [
    ({"sizes": [4]}, ValueError, ["sizes", "[4]"]),
    ({"sizes": 4}, TypeError, ["sizes", "int"]),
    ({"sizes": [4, 0, 3]}, ValueError, ["sizes[1]", "0", "at least 1"]),
    ({"sizes": [4, 5.5, 3]}, TypeError, ["sizes[1]", "5.5"]),
    ({"sizes": [4, True]}, TypeError, ["sizes[1]", "True"]),
    ({"activation": "relo"}, ValueError, ["activation", "relo", "relu", "sigmoid"]),
    ({"activation": 3}, (TypeError, ValueError), ["activation", "3", "relu"]),
    ({"activation": ["relu", "relu"]}, ValueError, ["activation", "list of 1", "2"]),
    ({"activation": ["relo"]}, ValueError, ["activation[0]", "relo"]),
    ({"output": "relo"}, ValueError, ["output", "relo", "softmax"]),
    ({"bias": "no"}, ValueError, ["bias", "'no'"]),
    ({"init": "glorot"}, ValueError, ["init", "glorot", "xavier"]),
    ({"init": [1, 2]}, ValueError, ["init", "2 arrays", "0.weight"]),
    ({"init": 3}, ValueError, ["init", "int", "0.weight"]),
    ({"init": GOOD | {"0.weight": np.ones((4, 5))}}, ValueError, ["init['0.weight']", "(4, 5)", "(5, 4)"]),
    ({"init": {"0.weight": GOOD["0.weight"]}}, ValueError, ["init", "2.bias"]),
    ({"dtype": "float16"}, ValueError, ["dtype", "float16", "float32"]),
    ({"dtype": None}, ValueError, ["dtype", "None"]),
    ({"dtype": "number"}, ValueError, ["dtype", "number"]),
    ({"precision": "tf32"}, ValueError, ["precision", "tf32", "float32"]),
    ({"seed": -1}, ValueError, ["seed", "-1"]),
    ({"seed": 2**64}, ValueError, ["seed", str(2**64)]),
    ({"seed": 0.5}, TypeError, ["seed", "0.5"]),
    ({"seed": None}, TypeError, ["seed", "None"]),
    ({"sizes": [2**31, 3]}, ValueError, ["sizes[0]", str(2**31)]),
    ({"backend": "tpu"}, ValueError, ["backend", "tpu", "python", "cpu", "cuda"]),
    ({"backend": 3}, TypeError, ["backend", "3", "python", "cpu", "cuda"]),
    ({"backend": None}, TypeError, ["backend", "None", "python", "cpu", "cuda"]),
    ({"plan": "out"}, TypeError, ["plan", "'out'", "Plan"]),
    ({"plan": Plan(1, ["tiles"] * 2, "instructions")}, ValueError, ["plan", "steps", "instructions"]),
    ({"plan": Plan(2, ("out", "in")), "backend": "python"}, ValueError, ["plan", "at most 1 workers on python", "2"]),
]


@pytest.mark.parametrize(
    "change, error, words", BAD_MODELS, ids=[f"{next(iter(r[0]))}{i}" for i, r in enumerate(BAD_MODELS)]
)
def test_bad_model(change, error, words):
    check(lambda: fm.MLP(**{"sizes": SIZES, "backend": "python"} | change), error, words)


def bad_states():
    missing = {name: value for name, value in GOOD.items() if name != "2.bias"}
    return [
        (missing, ValueError, ["2.bias"]),
        (GOOD | {"4.weight": np.ones(3)}, ValueError, ["4.weight"]),
        (GOOD | {"0.weight": np.ones((4, 5))}, ValueError, ["'0.weight'", "(4, 5)", "(5, 4)"]),
        (GOOD | {"0.bias": np.ones((1, 5))}, ValueError, ["'0.bias'", "(1, 5)", "(5,)"]),
        (GOOD | {"2.bias": "none"}, TypeError, ["'2.bias'", "numbers"]),
        (GOOD | {"2.bias": torch.ones(3, requires_grad=True)}, TypeError, ["'2.bias'", "detach"]),
        (list(GOOD.values()), TypeError, ["list", "mapping"]),
        ({f"fc.{k}": v for k, v in enumerate(GOOD.values())}, ValueError, ["fc.0", "0.weight", "zip(", "same order"]),
    ]


@pytest.mark.parametrize("given, error, words", bad_states(), ids=map(str, range(8)))
def test_bad_state_or_gradients(model, given, error, words):
    before = model.parameters()
    check(lambda: model.load_state_dict(given), error, ["state_dict", *words])
    check(lambda: model.update(given, "sgd"), error, ["gradients", *words])
    assert all(map(np.array_equal, model.parameters(), before))


BAD_CALLS = [
    (lambda m: m(np.ones((2, 3))), ValueError, ["x", "(2, 3)", "(N, 4)"]),
    (lambda m: m(np.ones((2, 4)), batch_size=0), ValueError, ["batch_size", "0"]),
    (lambda m: m(np.ones((2, 4)), batch_size=1.5), TypeError, ["batch_size", "1.5"]),
    (lambda m: m.update(GOOD, "adam2"), ValueError, ["optimizer", "adam2", "rmsprop"]),
    (lambda m: m.update(GOOD, torch.optim.SGD), TypeError, ["optimizer"]),
    (
        lambda m: m.loss_and_gradients(np.ones((2, 4)), [0, 1], "entropy"),
        ValueError,
        ["loss", "entropy", "cross_entropy"],
    ),
    (lambda m: m.loss_and_gradients(np.ones((2, 4)), [0, 1], reduction="none"), ValueError, ["reduction", "'none'"]),
    (lambda m: m.loss_and_gradients(np.ones((0, 4)), []), ValueError, ["x", "(0, 4)"]),
    (lambda m: list(fm.batches(np.ones((2, 4)), [1, 2, 3], 2)), ValueError, ["x", "y", "(2, 4)", "(3,)"]),
    (lambda m: list(fm.batches(np.ones((2, 4)), [1, 2], 0)), ValueError, ["batch_size", "0"]),
    (lambda m: list(fm.batches(np.ones((2, 4)), [1, 2], 1, epoch=-1)), ValueError, ["epoch", "-1"]),
    (lambda m: list(fm.batches(np.ones((2, 4)), [1, 2], 1, seed=-1)), ValueError, ["seed", "-1"]),
]


@pytest.mark.parametrize("call, error, words", BAD_CALLS, ids=map(str, range(len(BAD_CALLS))))
def test_bad_call(model, call, error, words):
    before = model.parameters()
    check(lambda: call(model), error, words)
    assert all(map(np.array_equal, model.parameters(), before))


@pytest.mark.parametrize("output, loss", [("tanh", "cross_entropy"), ("softmax", "binary_cross_entropy")])
def test_output_and_loss_that_do_not_fit(backend, output, loss):
    model = fm.MLP(SIZES, output=output, backend=backend)
    right = "softmax" if loss == "cross_entropy" else "sigmoid"
    for call in (model.loss_and_gradients, lambda *a, loss: model.fit(*a, loss=loss, epochs=1)):
        check(
            lambda c=call: c(np.ones((2, 4)), np.ones((2, 3)), loss=loss), ValueError, [loss, output, right, "identity"]
        )


def check(call, error, words):
    with pytest.raises(error) as caught:
        call()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in the message: {caught.value}"
