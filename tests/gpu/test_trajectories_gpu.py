"""Trainings on the device beside PyTorch's there and our own on the processor, whichever way their plan goes."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import fusedmlp as fm
from devices import REHEARSED
from fusedmlp.backends import Plan
from fusedmlp.backends.cuda import staging
from fusedmlp.backends.errors import OutOfMemory
from oracle import Case
from trajectory import Training, in_turn

SGD = Case("SGD", {"lr": 0.05, "momentum": 0.9})
ADAM = Case("Adam", {"lr": 0.01})

# Sizes, rows, rows a batch, steps: the last batch of an epoch is short, and no width fills a tile.
NETWORKS = {"two": ([7, 6, 5], 11, 4, 3)}
ROOMY = ([7, 6, 5], 22, 4, 1)  # most of whose memory are activations
if not REHEARSED:
    NETWORKS = {
        "one layer": ([33, 10], 500, 64, 40),
        "two": ([784, 128, 10], 1000, 64, 48),
        "four": ([100, 257, 65, 130, 17], 1000, 129, 24),
        "wide": ([512, 1024, 1000, 10], 1300, 512, 6),
    }
    ROOMY = ([4, 2048, 3], 20_000, 64, 1)
PROMPT = 1.0  # seconds within which Ctrl-C ends a training
INTERRUPTED_AFTER = 0.5  # seconds


def by_steps(layers):
    """One launch for many steps. In the simulator a barrier of several blocks would be silently wrong."""
    return Plan(1 if REHEARSED else 8, tuple(("out", "in")[layer % 2] for layer in range(layers)))


def by_instructions(layers):
    return Plan(64, ("tiles",) * layers, "instructions")


def by_library(layers):
    return replace(by_instructions(layers), products=("library",) * layers)


WAYS = {"steps": by_steps, "instructions": by_instructions, "library": by_library}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def start(sizes):
    return fm.MLP(sizes, init="torch", dtype="float64", seed=4, backend="python").state_dict()


def task_of(rng, network="two", optimizer=SGD):
    sizes, rows, batch, steps = ROOMY if network == "roomy" else NETWORKS[network]
    x, y = rng.normal(size=(rows, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], rows)
    return Training(
        sizes, "tanh", "softmax", "cross_entropy", optimizer, x, y, in_turn(rows, batch, steps), start(sizes)
    )


def fitted(task, device, way, data=None, **changes):
    """A model trained by one `fit` over the task's rows, and its history."""
    model = task.model(device, "float32", plan=None if way is None else way(len(task.sizes) - 1), **changes)
    x, y = data or (task.x, task.y)
    epochs = len(task.batches) // -(-len(task.x) // len(task.batches[0]))
    options = {"loss": task.loss, "optimizer": task.stepper(), "batch_size": len(task.batches[0]), "progress": False}
    return model, model.fit(x, y, epochs=max(1, epochs), **options)


def assert_same(one, other):
    """To the bit."""
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def check(task, device, way, torch_on):
    """Step by step: as near to the exact training as PyTorch's own in float32 on the device, and to our own on cpu."""
    expected, parameters = task.expected(np.dtype("float32"), torch_on)
    model = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    losses = task.step_losses(model)
    expected.check(losses, "loss")
    ours = task.model("cpu", "float32")
    distance = np.abs(losses - task.step_losses(ours))
    assert (distance <= 2 * expected.tolerance).all(), f"from our own on cpu: {distance.max():.3g}"
    at_home = ours.state_dict()
    for name, value in model.state_dict().items():
        parameters[name].check(value, name)
        assert (np.abs(value - at_home[name]) <= 2 * parameters[name].tolerance).all(), f"{name}, from our own on cpu"


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_trajectory(device, torch_on, way, network, optimizer, rng):
    check(task_of(rng, network, optimizer), device, way, torch_on)


@pytest.mark.parametrize("loss", ["mse", "half_mse", "mae", "huber", "binary_cross_entropy"])
def test_losses_by_instructions(device, torch_on, loss, rng):
    task = task_of(rng)
    output = "sigmoid" if loss == "binary_cross_entropy" else "tanh"
    truth = rng.integers(0, 2, (len(task.x), task.sizes[-1])).astype(np.float32)
    check(replace(task, output=output, loss=loss, y=truth), device, by_instructions, torch_on)


@pytest.mark.parametrize("name", ["AdamW", "RMSprop"])
def test_optimizers_by_instructions(device, torch_on, name, rng):
    check(task_of(rng, optimizer=Case(name, {"lr": 0.01})), device, by_instructions, torch_on)


def test_an_epoch_is_its_batches(device, way, rng):
    """One `fit`, by graphs or by one launch, and one of each step: the same bits."""
    task = task_of(rng)
    stepwise = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    task.step_losses(stepwise)
    whole = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    epochs = len(task.batches) // -(-len(task.x) // len(task.batches[0]))
    whole.fit(
        task.x, task.y, loss=task.loss, optimizer=task.stepper(), epochs=epochs, batch_size=len(task.batches[0]),
        shuffle=False, progress=False,
    )  # fmt: skip
    for name, value in stepwise.state_dict().items():
        # The short batch is one of its own there, with other shapes and so other products and sums.
        np.testing.assert_allclose(whole.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_same_seed_same_bits(device, way, rng):
    task = task_of(rng, optimizer=ADAM)
    (one, first), (two, second) = (fitted(task, device, way) for _ in range(2))
    assert first.loss == second.loss
    assert_same(one.state_dict(), two.state_dict())


def test_as_planned(device, rng):
    """The plan that the backend chooses trains as one that is given."""
    task = task_of(rng)
    (chosen, _), (given, _) = fitted(task, device, None), fitted(task, device, by_instructions)
    for name, value in given.state_dict().items():
        np.testing.assert_allclose(chosen.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_where_the_data_lie(device, way, rng, monkeypatch):
    """On the host, on the device, and in blocks that are brought beside the work: the same bits."""
    task = task_of(rng)
    at_home, _ = fitted(task, device, way)
    there, _ = fitted(task, device, way, [*map(device.memory.to_device, (task.x, task.y))])
    assert_same(there.state_dict(), at_home.state_dict())
    row = task.x[:1].nbytes + 8
    monkeypatch.setattr(staging, "BLOCK", 2 * len(task.batches[0]) * row)  # two steps
    monkeypatch.setattr(device, "place", lambda data: data)
    staged, _ = fitted(task, device, way)
    assert_same(staged.state_dict(), at_home.state_dict())


def test_predictions(device, way, rng):
    """In the memory where x lies; the probabilities are those of our own on cpu."""
    task = task_of(rng)
    model, right = task.model(device, "float32", plan=way(len(task.sizes) - 1)), task.model("cpu", "float32")(task.x)
    np.testing.assert_allclose(model(task.x), right, rtol=1e-4, atol=1e-6)
    found = model(device.memory.to_device(task.x), batch_size=7)
    assert device.memory.holds(found) and type(model(task.x)) is np.ndarray
    np.testing.assert_allclose(device.memory.to_host(found), right, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite(device, way, rng):
    """The training stops before that step touches a parameter, in the midst of a graph or of a launch."""
    task = task_of(rng)
    batch = len(task.batches[0])
    x = task.x.copy()
    x[batch] = np.nan  # in the second step
    model = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    options = {"loss": task.loss, "epochs": 1, "batch_size": batch, "shuffle": False, "progress": False}
    with pytest.raises(fm.NonFiniteLoss) as caught:
        model.fit(x, task.y, optimizer=task.stepper(), **options)
    assert caught.value.step == 1
    alone = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    alone.fit(x[:batch], task.y[:batch], optimizer=task.stepper(), **options)
    assert_same(model.state_dict(), alone.state_dict())


def test_ctrl_c(device, way, rng):
    """Within a second; the history so far is there, and the model goes on."""
    task = task_of(rng)
    model, _ = fitted(task, device, way)  # compiled, and captured
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(INTERRUPTED_AFTER, interrupt)
    options = {"loss": task.loss, "optimizer": "sgd", "batch_size": len(task.batches[0]), "progress": False}
    timer.start()
    history = model.fit(task.x, task.y, epochs=10**9, **options)
    assert time.monotonic() - sent[0] < PROMPT
    assert history.interrupted and history.steps > 0
    assert all(np.isfinite(value).all() for value in model.state_dict().values())
    model.fit(task.x, task.y, epochs=1, **options)


def test_out_of_memory_that_is_real(device):
    """An activation of more bytes than any device has: the error says what was asked for, and what would fit."""
    rows, width = (64, 64) if REHEARSED else (1 << 22, 1 << 14)
    if REHEARSED:
        device.memory.free = 40_000
    model = fm.MLP([1, width, 1], activation="tanh", backend=device, plan=by_instructions(2))
    before, x = model.state_dict(), np.zeros((rows, 1), np.float32)
    with pytest.raises(OutOfMemory, match=r"out of memory: \d+ bytes were asked for, and \d+ are free; batch_size=\d"):
        model.fit(x, x, loss="mse", epochs=1, batch_size=rows, progress=False)
    assert_same(before, model.state_dict())


def test_the_batch_that_is_named_fits(device, way, rng, monkeypatch):
    """In a memory that is small, and a megabyte of it kept back for what is asked for beside the buffer."""
    task = task_of(rng, "roomy")
    model = task.model(device, "float32", plan=way(len(task.sizes) - 1))
    options = {"loss": task.loss, "epochs": 1, "shuffle": False, "progress": False}
    x, y, limit = task.x, task.y, 4_000 if REHEARSED else 100 << 20
    model.fit(x[:4], y[:4], batch_size=4, **options)
    with room_for(device, limit, monkeypatch):
        with pytest.raises(OutOfMemory) as caught:
            model.fit(x, y, batch_size=len(x), **options)
        assert 0 < caught.value.batch < len(x)
        model.fit(x, y, batch_size=caught.value.batch, **options)


class room_for:
    """A context in which the device has `nbytes` left, and the message knows it."""

    BESIDE = 1 << 20

    def __init__(self, device, nbytes, monkeypatch):
        self.memory, self.nbytes, self.monkeypatch = device.memory, nbytes, monkeypatch

    def __enter__(self):
        if REHEARSED:
            self.memory.free = self.nbytes
            return
        self.pool = self.memory.library.get_default_memory_pool()
        self.pool.free_all_blocks()
        limit = self.pool.total_bytes() + self.nbytes
        self.pool.set_limit(limit)
        self.monkeypatch.setattr(
            self.memory,
            "free_bytes",
            lambda: limit - self.pool.total_bytes() + self.pool.free_bytes() - self.BESIDE,
        )

    def __exit__(self, *exception):
        if REHEARSED:
            self.memory.free = 1 << 30
        else:
            self.pool.set_limit(0)


# Relative, of the losses and of the parameters' largest: 10 and 7 bits of mantissa, averaged over a batch.
ROUNDED = {"tf32": 2e-3, "bf16": 2e-2}


@pytest.mark.parametrize("precision", ROUNDED)
def test_precision(device, precision, rng):
    """Near to float32, and not the same: the products are rounded, and nothing else is."""
    task = task_of(rng)
    (exact, right), (rounded, found) = (
        fitted(task, device, by_library, precision=asked) for asked in (None, precision)
    )
    np.testing.assert_allclose(found.loss, right.loss, rtol=ROUNDED[precision])
    changed = False
    for name, value in exact.state_dict().items():
        other = rounded.state_dict()[name]
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, value, atol=5 * ROUNDED[precision] * np.abs(value).max())
        changed |= not np.array_equal(other, value)
    assert changed
