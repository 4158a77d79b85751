"""`fit`: its history, going on, validation, callbacks, the ways it ends, and what it refuses."""

import io
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest

import fusedmlp as fm
from fusedmlp.backends.executor import Executor
from fusedmlp.model import progress as progress_module
from fusedmlp.model import training
from fusedmlp.model.progress import Progress

pytestmark = pytest.mark.usefixtures("typed")

SIZES = [4, 6, 3]
ROWS, BATCH = 22, 8


@pytest.fixture
def x(rng):
    return rng.normal(size=(ROWS, 4))


@pytest.fixture
def y(rng):
    return rng.integers(0, 3, ROWS)


@pytest.fixture
def make(backend, dtype):
    def make(seed=0, **options):
        return fm.MLP(
            SIZES, activation="tanh", **{"output": "softmax", "dtype": dtype} | options, seed=seed, backend=backend
        )

    return make


OPTIONS = {"loss": "cross_entropy", "batch_size": BATCH, "progress": False}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("truth", ["classes", "probabilities"])
def test_rows_as_they_lie(make, x, y, rng, truth, weighted):
    """What a shuffle gathers, laid out in that order and trained on without one: the same bits."""
    if truth == "probabilities":
        y = rng.dirichlet(np.ones(SIZES[-1]), ROWS)
    weights = rng.random(ROWS) if weighted else None
    ((order, _),) = fm.batches(np.arange(ROWS), y, ROWS)
    shuffled, as_it_lies = make(), make()
    shuffled.fit(x, y, epochs=1, optimizer=fm.Adam(0.01), sample_weight=weights, **OPTIONS)
    weights = None if weights is None else weights[order]
    as_it_lies.fit(
        x[order], y[order], epochs=1, optimizer=fm.Adam(0.01), sample_weight=weights, shuffle=False, **OPTIONS
    )
    for name, value in shuffled.state_dict().items():
        np.testing.assert_array_equal(as_it_lies.state_dict()[name], value)
    np.testing.assert_array_equal(as_it_lies(x), shuffled(x))


OPTIMIZERS = {
    "sgd": lambda: fm.SGD(0.05),
    "momentum": lambda: fm.SGD(0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda: fm.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: fm.Adam(0.01),
    "adamw": lambda: fm.AdamW(0.01),
    "rmsprop": lambda: fm.RMSprop(0.01, momentum=0.5, centered=True),
}


def by_hand(model, x, y, epochs, optimizer, weights=None, **options):
    """The hand-written loop; gives the losses of each epoch's batches, and their rows."""
    losses, numbers = [], np.arange(len(x))
    for epoch in epochs:
        losses.append([])
        for rows, _ in fm.batches(numbers, numbers, BATCH, seed=model._seed, epoch=epoch):
            share = None if weights is None else weights[rows]
            loss, gradients = model.loss_and_gradients(
                x[rows], y[rows], "cross_entropy", sample_weight=share, **options
            )
            model.update(gradients, optimizer)
            losses[-1].append(loss)
    return np.array(losses), np.array([BATCH, BATCH, ROWS - 2 * BATCH])


def same(one, other):
    return all(map(np.array_equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_loop_by_hand(make, x, y, name, reduction):
    """Bit for bit, with shuffling and a short last batch; the history from the losses of its batches."""
    model, loop = make(seed=7), make(seed=7)
    history = model.fit(x, y, epochs=3, optimizer=OPTIMIZERS[name](), reduction=reduction, **OPTIONS)
    losses, rows = by_hand(loop, x, y, range(3), OPTIMIZERS[name](), reduction=reduction)
    assert same(model, loop)
    expected = losses @ rows / ROWS if reduction == "mean" else losses.sum(1)
    np.testing.assert_allclose(history.loss, expected, rtol=8 * np.finfo(float).eps)
    assert (history.epochs, history.steps, history.rows, history.interrupted) == (3, 9, 66, False)
    assert history.seconds > 0 and history.rows_per_second == 66 / history.seconds


def test_sample_weights_equal_the_loop_by_hand(make, x, y, rng, dtype):
    weights = rng.random(ROWS).astype(dtype)
    model, loop = make(), make()
    model.fit(x, y, epochs=2, optimizer=fm.SGD(0.1), sample_weight=weights, **OPTIONS)
    by_hand(loop, x, y, range(2), fm.SGD(0.1), weights)
    assert same(model, loop)


def test_rows_of_weight_zero_teach_nothing(make, x, y, dtype):
    """Not even where a whole batch has no weight: its loss is 0, and the parameters stay."""
    weights = np.ones(ROWS)
    weights[:BATCH] = 0
    model, other = make(), make()
    loss, gradients = model.loss_and_gradients(x, y, sample_weight=weights)
    expected, expected_gradients = other.loss_and_gradients(x[BATCH:], y[BATCH:])
    tolerance = 64 * np.finfo(dtype).eps
    assert abs(loss - expected) < tolerance * (1 + expected)
    assert all((np.abs(gradients[k] - expected_gradients[k]) < tolerance).all() for k in gradients)
    history = model.fit(x[: 2 * BATCH], y[: 2 * BATCH], epochs=1, optimizer=fm.SGD(0.1), shuffle=False,
                        sample_weight=weights[: 2 * BATCH], **OPTIONS)  # fmt: skip
    alone = other.fit(
        x[BATCH : 2 * BATCH], y[BATCH : 2 * BATCH], epochs=1, optimizer=fm.SGD(0.1), shuffle=False, **OPTIONS
    )
    assert same(model, other)
    np.testing.assert_allclose(history.loss, np.array(alone.loss) / 2, rtol=tolerance)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_second_fit_goes_on(make, x, y, optimizer):
    """Weights, epochs of the order, and the state of a named or a given optimizer."""
    chosen = "adam" if optimizer == "adam" else fm.SGD(0.05, momentum=0.9)
    whole, parts = make(), make()
    expected = whole.fit(x, y, epochs=4, optimizer=chosen, **OPTIONS)
    histories = [parts.fit(x, y, epochs=n, optimizer=chosen, **OPTIONS) for n in (1, 3)]
    assert same(whole, parts)
    assert histories[0].loss + histories[1].loss == expected.loss


def test_a_new_optimizer_starts_anew(make, x, y):
    whole, parts = make(), make()
    whole.fit(x, y, epochs=2, optimizer=fm.Adam(), **OPTIONS)
    for _ in range(2):
        parts.fit(x, y, epochs=1, optimizer=fm.Adam(), **OPTIONS)
    assert not same(whole, parts)


def test_a_seed_of_its_own_counts_from_0(make, x, y):
    one, other, third = make(), make(), make()
    for _ in range(2):
        one.fit(x, y, epochs=1, optimizer=fm.SGD(0.1), seed=5, **OPTIONS)
    for _ in range(2):
        for batch in fm.batches(x, y, BATCH, seed=5, epoch=0):
            other.fit(*batch, epochs=1, optimizer=fm.SGD(0.1), shuffle=False, **OPTIONS)
    third.fit(x, y, epochs=2, optimizer=fm.SGD(0.1), seed=5, **OPTIONS)
    assert same(one, other)
    assert not same(one, third)


def test_same_on_both_backends(x, y, dtype):
    """Batches and weights are; sums may be taken in another order, so the results only nearly."""
    models = [
        fm.MLP(SIZES, activation="tanh", output="softmax", dtype=dtype, backend=name) for name in ("python", "cpu")
    ]
    histories = [model.fit(x, y, epochs=3, optimizer=fm.SGD(0.1), **OPTIONS) for model in models]
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize("loss, output", [("cross_entropy", "softmax"), ("cross_entropy", "identity"),
                                          ("binary_cross_entropy", "sigmoid"), ("binary_cross_entropy", "identity"),
                                          ("mse", "tanh"), ("huber", "identity")])  # fmt: skip
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_validation(make, x, y, loss, output, reduction, dtype):
    """Loss and accuracy after each epoch, those of the weights that the callback sees."""
    targets = y if loss == "cross_entropy" else np.eye(3)[y]
    seen = []

    def look(model, history):
        value, _ = model.loss_and_gradients(held_x, held_y, loss, reduction=reduction)
        prediction = model(held_x)
        border = 0 if output == "identity" else 0.5
        right = prediction.argmax(1) == held_y if loss == "cross_entropy" else (prediction > border) == (held_y > 0.5)
        seen.append((value, right.mean()))
        assert len(history.val_loss) == len(history.loss) == len(seen)

    held_x, held_y = x[:9], targets[:9]
    model = make(output=output)
    before = make(output=output)
    options = OPTIONS | {"loss": loss, "reduction": reduction, "optimizer": fm.SGD(0.05)}
    history = model.fit(x, targets, epochs=3, validation_data=(held_x, held_y), callbacks=[look], **options)
    np.testing.assert_allclose(history.val_loss, [value for value, _ in seen], rtol=64 * np.finfo(dtype).eps)
    expected = [] if loss in ("mse", "huber") else [accuracy for _, accuracy in seen]
    assert history.val_accuracy == expected
    before.fit(x, targets, epochs=3, **options | {"optimizer": fm.SGD(0.05)})
    assert same(model, before)  # looking changes nothing


def test_validation_in_pieces(make, x, y, monkeypatch):
    from fusedmlp.model import validation

    results = []
    for rows in (4, 1024):
        monkeypatch.setattr(validation, "ROWS", rows)
        history = make().fit(x, y, epochs=1, validation_data=(x, np.eye(3)[y]), **OPTIONS)
        results.append((*history.val_loss, *history.val_accuracy))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_callbacks(make, x, y):
    """Called in turn after each epoch; True ends the training, other answers do not."""
    calls = []

    def first(model, history):
        calls.append(("first", history.epochs, model(x).shape))
        return 1

    def second(model, history):
        calls.append(("second", history.epochs))
        return history.epochs == 2

    model, other = make(), make()
    history = model.fit(x, y, epochs=5, callbacks=[second, first], **OPTIONS)
    shape = (ROWS, 3)
    assert calls == [("second", 1), ("first", 1, shape), ("second", 2), ("first", 2, shape)]
    assert history.epochs == 2
    other.fit(x, y, epochs=2, **OPTIONS)
    assert same(model, other)


@pytest.mark.parametrize("true", [True, np.True_], ids=["Python", "NumPy"])
def test_a_callback_that_returns_true(make, x, y, true):
    assert make().fit(x, y, epochs=5, callbacks=[lambda *_: true], **OPTIONS).epochs == 1


@pytest.mark.parametrize("other", [False, np.False_, None, 1, "yes", np.ones(2)], ids=str)
def test_a_callback_that_returns_something_else(make, x, y, other):
    assert make().fit(x, y, epochs=2, callbacks=[lambda *_: other], **OPTIONS).epochs == 2


def test_a_training_within_a_callback(make, x, y):
    """Its own callbacks use the model; when it is done the outer callback may still, and other threads may not."""
    model, refused = make(), []

    def elsewhere():
        with pytest.raises(RuntimeError, match="in a call already"):
            model(x)
        refused.append(True)

    def inner(model, history):
        model(x)

    def outer(model, history):
        model.fit(x, y, epochs=1, callbacks=[inner], **OPTIONS)
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        model(x)

    model.fit(x, y, epochs=2, callbacks=[outer], **OPTIONS)
    assert refused == [True, True]
    assert model(x).shape == (ROWS, 3)


def test_an_exception_in_a_callback(make, x, y):
    """It goes through, with the model after that epoch, ready for the next."""

    def fail(model, history):
        raise LookupError("mine")

    model, other = make(), make()
    with pytest.raises(LookupError, match="mine"):
        model.fit(x, y, epochs=3, callbacks=[fail], **OPTIONS)
    other.fit(x, y, epochs=1, **OPTIONS)
    assert same(model, other)
    for one in (model, other):
        one.fit(x, y, epochs=1, **OPTIONS)
    assert same(model, other)


def test_ctrl_c_between_epochs(make, x, y):
    def interrupt(model, history):
        if history.epochs == 2:
            raise KeyboardInterrupt

    model, other = make(), make()
    history = model.fit(x, y, epochs=5, callbacks=[interrupt], **OPTIONS)
    assert (history.interrupted, history.epochs) == (True, 2)
    other.fit(x, y, epochs=2, **OPTIONS)
    assert same(model, other)


def test_ctrl_c_when_steps_are_done_and_not_yet_told(make, x, y, monkeypatch):
    """They count, for the history and for the optimizer."""
    model, other, optimizer, memory = make(), make(), fm.Adam(0.01), make().backend.memory
    to_host, pressed = memory.to_host, []

    def press(array):
        """As the losses are fetched, of the first steps after two epochs."""
        if len(pressed) == 1:
            pressed.append("Ctrl-C")
            raise KeyboardInterrupt
        return to_host(array)

    def watch(model, history):
        if history.epochs == 2:
            pressed.append("soon")

    monkeypatch.setattr(memory, "to_host", press)
    history = model.fit(x, y, epochs=5, optimizer=optimizer, shuffle=False, callbacks=[watch], **OPTIONS)
    assert len(pressed) == 2 and history.interrupted and history.epochs == 2
    each = -(-ROWS // BATCH)
    steps = history.steps - 2 * each
    assert 0 < steps <= each
    assert history.rows == 2 * ROWS + min(ROWS, steps * BATCH)

    again = fm.Adam(0.01)
    other.fit(x, y, epochs=2, optimizer=again, shuffle=False, **OPTIONS)
    rows = steps * BATCH
    other.fit(x[:rows], y[:rows], epochs=1, optimizer=again, shuffle=False, **OPTIONS)
    assert same(model, other)
    for one, its in ((model, optimizer), (other, again)):
        one.fit(x, y, epochs=1, optimizer=its, shuffle=False, **OPTIONS)
    assert same(model, other)


def test_ctrl_c_in_the_last_step_of_an_epoch(make, x, y, monkeypatch):
    """That epoch is a whole one: with its loss, its validation and its callbacks, and the next has the next order."""
    model, other, called = make(), make(), []
    run, steps = model.backend.run_interruptible, -(-ROWS // BATCH)
    taken = 0

    def pressed(*arguments):
        nonlocal taken
        done, reached = run(*arguments)
        taken += done
        return done, KeyboardInterrupt() if taken == 2 * steps else reached

    with monkeypatch.context() as patch:
        patch.setattr(model.backend, "run_interruptible", pressed)
        given = {"validation_data": (x, y), "callbacks": [lambda _, history: called.append(history.epochs)]}
        history = model.fit(x, y, epochs=5, **given, **OPTIONS)
    assert history.interrupted and called == [1, 2]
    assert len(history.loss) == len(history.val_loss) == 2
    assert (history.steps, history.rows) == (2 * steps, 2 * ROWS)
    expected = other.fit(x, y, epochs=2, **OPTIONS)
    assert history.loss == expected.loss
    assert same(model, other)
    for one in (model, other):
        one.fit(x, y, epochs=1, **OPTIONS)
    assert same(model, other)


def test_ctrl_c_between_the_last_steps_and_their_losses(make, x, y, monkeypatch):
    """An epoch whose losses are not all added up has none in the history."""
    model, add, added = make(), training._added_in_turn, []

    def pressed(total, losses):
        added.append(len(losses))
        if sum(added) == 2 * -(-ROWS // BATCH):
            raise KeyboardInterrupt
        return add(total, losses)

    monkeypatch.setattr(training, "_added_in_turn", pressed)
    history = model.fit(x, y, epochs=5, **OPTIONS)
    monkeypatch.setattr(training, "_added_in_turn", add)
    assert history.interrupted and history.steps == 2 * -(-ROWS // BATCH)
    assert history.loss == make().fit(x, y, epochs=1, **OPTIONS).loss


def test_a_loss_is_the_same_however_many_steps_a_call_takes(make, x, y, monkeypatch):
    """To the bit: how many they are is a matter of time."""
    losses = []
    for steps in (1, 3, 7, 100):
        monkeypatch.setattr(Executor, "_steps_of_a_call", lambda self, key, steps=steps: steps)
        losses.append(make().fit(x, y, epochs=3, **OPTIONS | {"batch_size": 1}).loss)
    assert losses == [losses[0]] * 4


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to one thread here")
def test_ctrl_c_within_an_epoch(make, rng, backend):
    """Within a second, with the weights of the last finished step."""
    many = rng.normal(size=(400_000 if backend.name == "cpu" else 4_000, 4))
    classes = rng.integers(0, 3, len(many))
    make().fit(many[:BATCH], classes[:BATCH], epochs=1, **OPTIONS)  # compiled before the clock starts
    sent = []

    def press():
        time.sleep(0.5)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    model, presser = make(), threading.Thread(target=press)
    presser.start()
    history = model.fit(many, classes, epochs=10_000, optimizer="sgd", shuffle=False, **OPTIONS)
    ended = time.monotonic()
    presser.join()
    assert history.interrupted
    assert ended - sent[0] < 1.0
    assert history.rows == history.epochs * len(many) + (history.steps - history.epochs * len(many) // BATCH) * BATCH

    other, steps = make(), history.steps - history.epochs * (len(many) // BATCH)  # all, if it came in the last one
    optimizer = fm.SGD()
    if history.epochs:
        other.fit(many, classes, epochs=history.epochs, optimizer=optimizer, shuffle=False, **OPTIONS)
    if steps:
        rows = steps * BATCH
        other.fit(many[:rows], classes[:rows], epochs=1, optimizer=optimizer, shuffle=False, **OPTIONS)
    assert same(model, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_non_finite_loss(make, x, y, name):
    """At step 1 of epoch 0: the model holds the weights after step 0, and goes on from there."""
    x = x.copy()
    x[BATCH] = np.nan
    model, other = make(), make()
    chosen, its = OPTIMIZERS[name](), OPTIMIZERS[name]()
    with pytest.raises(fm.NonFiniteLoss) as caught:
        model.fit(x, y, epochs=3, optimizer=chosen, shuffle=False, **OPTIONS)
    error = caught.value
    assert (error.epoch, error.step, error.learning_rate) == (0, 1, chosen.lr)
    assert (error.history.epochs, error.history.steps, error.history.rows) == (0, 1, BATCH)
    for words in ("step 1 of epoch 0", f"learning rate {chosen.lr:g}", "weights before"):
        assert words in str(error)
    other.fit(x[:BATCH], y[:BATCH], epochs=1, optimizer=its, shuffle=False, **OPTIONS)
    assert same(model, other)
    for one, optimizer in ((model, chosen), (other, its)):
        one.fit(x[-BATCH:], y[-BATCH:], epochs=2, optimizer=optimizer, shuffle=False, **OPTIONS)
    assert same(model, other)


def test_divergence(make, x, y):
    model = make(output="identity")
    with pytest.raises(fm.NonFiniteLoss) as caught:
        model.fit(x * 1e3, np.eye(3)[y], epochs=2000, optimizer=fm.SGD(1e3), **OPTIONS | {"loss": "mse"})
    error = caught.value
    assert error.history.epochs == error.epoch
    assert all(np.isfinite(array).all() for array in model.parameters())


def test_the_error_survives_a_process_pool():
    error = fm.NonFiniteLoss(2, 3, 0.1, fm.History(loss=[1.0, 2.0]))
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.epoch, copy.step, copy.learning_rate, copy.history) == (2, 3, 0.1, fm.History(loss=[1.0, 2.0]))
    assert str(copy) == str(error)
    assert isinstance(copy, ArithmeticError)


# --- on the screen ----------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(progress_module.time, "monotonic", lambda: Clock.now)
    return Clock


def play(clock, screen, show, epochs=50, seconds=0.02):
    """Epochs of 10 steps, each of `seconds` in all."""
    history = fm.History(seconds=1.0, rows=5000)
    progress = Progress(show, epochs, 100, history, screen)
    for epoch in range(epochs):
        for step in range(10):
            clock.now += seconds / 10
            progress.step(10 * (step + 1), 1.5)
        history.loss.append(1 / (epoch + 1))
        history.val_loss.append(2 / (epoch + 1))
        history.val_accuracy.append(0.975)
        progress.epoch()
    progress.close()
    return screen.getvalue()


def test_terminal(clock, monkeypatch):
    """One line, rewritten at most ten times a second, which ends with the last epoch; never wider than the screen."""
    monkeypatch.setenv("COLUMNS", "70")
    for show in (True, "auto"):
        text = play(clock, Screen(True), show)
        assert text.count("\n") == 1 and text.endswith("\n")
        drawings = text.split("\r")[1:]
        assert 5 <= len(drawings) <= 12  # in a second, and the first and last epoch
        assert all(len(drawing.rstrip("\n")) < 70 for drawing in drawings)
        assert drawings[-1].startswith("epoch 50/50 [####################]  loss 0.02")
    monkeypatch.setenv("COLUMNS", "200")
    last = play(clock, Screen(True), True).split("\r")[-1]
    for part in ("loss 0.02", "val_loss 0.04", "accuracy 97.50%", "5,000 rows/s"):
        assert part in last


def test_elsewhere(clock):
    """Lines: the first and the last epoch, and one every five seconds; with "auto" only the latter."""
    lines = play(clock, Screen(False), True, seconds=0.625).splitlines()
    assert len(lines) == 8 and lines[0].startswith("epoch  1/50  loss 1 ") and lines[-1].startswith("epoch 50/50")
    assert len(play(clock, Screen(False), "auto", seconds=0.625).splitlines()) == 6
    assert play(clock, Screen(False), "auto") == ""


def test_silence(clock):
    for terminal in (True, False):
        assert play(clock, Screen(terminal), False, seconds=1.0) == ""


def test_no_console(monkeypatch, make):
    """A program without a console has no error stream."""
    monkeypatch.setattr(sys, "stderr", None)
    for progress in (False, True, "auto"):
        assert make().fit(X, Y, loss="cross_entropy", epochs=1, progress=progress).epochs == 1


def test_weights_that_the_dtype_cannot_hold(make):
    model = make(dtype="float32")
    with pytest.raises(ValueError, match=r"sample_weight: .*float32"):
        model.fit(X, Y, loss="cross_entropy", epochs=1, sample_weight=np.full(6, 5e37), progress=False)


# --- bad input --------------------------------------------------------------------------------------------------------

X, Y = np.ones((6, 4)), np.array([0, 1, 2, 0, 1, 2])
BAD_FITS = [
    ({"x": np.ones((6, 3))}, ValueError, ["x", "(6, 3)", "(N, 4)"]),
    ({"x": np.ones((0, 4)), "y": np.ones(0, int)}, ValueError, ["x", "at least one row", "(0, 4)"]),
    ({"x": [["a"] * 4] * 6}, TypeError, ["x", "numbers"]),
    ({"y": Y[:5]}, ValueError, ["y", "(5,)", "(6,)"]),
    ({"y": Y + 1}, ValueError, ["y", "3", "0 to 2"]),
    ({"y": Y - 1}, ValueError, ["y", "-1"]),
    ({"y": Y.astype(float)}, TypeError, ["y", "float64", "astype"]),
    ({"y": np.ones((6, 2))}, ValueError, ["y", "(6, 2)", "(6, 3)"]),
    ({"loss": "entropy"}, ValueError, ["loss", "entropy", "cross_entropy", "mse"]),
    ({"loss": None}, TypeError, ["loss", "NoneType"]),
    ({"loss": "binary_cross_entropy"}, ValueError, ["binary_cross_entropy", "sigmoid", "softmax"]),
    ({"epochs": 0}, ValueError, ["epochs", "0"]),
    ({"epochs": 1.5}, TypeError, ["epochs", "1.5"]),
    ({"reduction": "none"}, ValueError, ["reduction", "'none'", "'mean'", "'sum'"]),
    ({"optimizer": "adam2"}, ValueError, ["optimizer", "adam2", "adam", "rmsprop"]),
    ({"optimizer": 0.1}, TypeError, ["optimizer", "float"]),
    ({"batch_size": 0}, ValueError, ["batch_size", "0", "at least 1"]),
    ({"batch_size": 2.0}, TypeError, ["batch_size", "2.0"]),
    ({"batch_size": True}, TypeError, ["batch_size", "True"]),
    ({"x": np.ma.array(X)}, TypeError, ["x", "mask", "filled"]),
    ({"shuffle": "yes"}, ValueError, ["shuffle", "'yes'", "True"]),
    ({"shuffle": 1}, ValueError, ["shuffle", "1", "True"]),
    ({"validation_data": (X,)}, ValueError, ["validation_data", "(x, y)", "1"]),
    ({"validation_data": X}, ValueError, ["validation_data", "(x, y)", "ndarray"]),
    ({"validation_data": (X[:, :3], Y)}, ValueError, ["validation_data", "x", "(6, 3)"]),
    ({"validation_data": (X, Y + 1)}, ValueError, ["validation_data", "y", "3"]),
    ({"validation_data": (X[:0], Y[:0])}, ValueError, ["validation_data", "(0, 4)"]),
    ({"validation_data": (X, ["a"] * 6)}, TypeError, ["validation_data", "y"]),
    ({"sample_weight": np.ones(5)}, ValueError, ["sample_weight", "(5,)", "(6,)"]),
    ({"sample_weight": -np.ones(6)}, ValueError, ["sample_weight", "-1"]),
    ({"sample_weight": np.zeros(6)}, ValueError, ["sample_weight", "0"]),
    ({"sample_weight": np.full(6, np.nan)}, ValueError, ["sample_weight", "nan"]),
    ({"callbacks": print}, TypeError, ["callbacks", "builtin"]),
    ({"callbacks": [3]}, TypeError, ["callbacks[0]", "int"]),
    ({"progress": "bar"}, ValueError, ["progress", "'bar'", "'auto'"]),
    ({"seed": -1}, ValueError, ["seed", "-1"]),
    ({"seed": "0"}, TypeError, ["seed", "'0'"]),
]


@pytest.mark.parametrize(
    "change, error, words", BAD_FITS, ids=[f"{next(iter(r[0]))}{i}" for i, r in enumerate(BAD_FITS)]
)
def test_bad_fit(backend, change, error, words):
    """Nothing is written: neither parameters, nor the state of the optimizer, nor the count of epochs."""
    models = [fm.MLP(SIZES, output="softmax", backend=backend) for _ in range(2)]
    good = {"x": X, "y": Y, "loss": "cross_entropy", "epochs": 1, "progress": False}
    for model in models:
        model.fit(**good)
    arguments = good | change
    with pytest.raises(error) as caught:
        models[0].fit(**arguments)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in the message: {caught.value}"
    for model in models:
        model.fit(**good)
    assert same(*models)
