"""A model on the stand-in for a device (tests/stand_in.py): the same history, parameters and answers as on python,
whichever way its plan says that a training goes."""

import gc
import itertools
import signal
import weakref
from dataclasses import replace

import numpy as np
import pytest

import fusedmlp as fm
from fake_cublaslt import FakeCublasLt, numbered
from fusedmlp import backends
from fusedmlp.backends import Plan, entries
from fusedmlp.backends.cuda import backend as cuda_backend
from fusedmlp.backends.cuda import driver as cuda_driver
from fusedmlp.backends.cuda import launches, staging
from fusedmlp.backends.cuda.words import SYNC_LENGTH
from fusedmlp.backends.errors import OutOfMemory
from fusedmlp.model import info
from stand_in import OnDevice, SimulatedBackend, StandIn, StandInCopier, StandInMemory, get_simulator

SIZES, ROWS = [5, 6, 3], 11
TILES = ("tiles", "tiles")

PLANS = {
    "steps": Plan(1, ("out", "in")),
    "instructions": Plan(4, TILES, "instructions"),
    "library": Plan(4, TILES, "instructions", ("library", "library")),
    "mixed": Plan(4, TILES, "instructions", ("library", "own")),
}


@pytest.fixture
def device():
    """The stand-in, as if nothing had been asked of it yet, with room for everything."""
    backend = get_simulator()
    backend._driver.launches.clear()
    backend._driver.replays = 0
    yield backend
    backend.memory.free = 1 << 30
    assert all(copier.idle for copier in backend._driver.copiers), "copies outlive the feed that began them"


@pytest.fixture(params=PLANS)
def models(request, device):
    """The model on the stand-in, and its like on python."""
    rest = {"activation": "gelu", "output": "softmax"}
    return fm.MLP(SIZES, **rest, backend=device, plan=PLANS[request.param]), fm.MLP(SIZES, **rest, backend="python")


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], ROWS)


def same(one, other):
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def trained_alike(models, given, **options):
    """Both models trained: their histories agree, and so do their parameters."""
    histories = [model.fit(*given, loss="cross_entropy", progress=False, **options) for model in models]
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(*(getattr(history, name) for history in histories), rtol=2e-5)
    same(*(model.state_dict() for model in models))
    return histories


@pytest.mark.parametrize("optimizer", [fm.SGD(0.1, momentum=0.9), fm.Adam(0.01)], ids=["sgd", "adam"])
def test_training(models, given, optimizer):
    """Three steps an epoch, the last one ragged."""
    histories = trained_alike(
        models, given, epochs=2, batch_size=4, optimizer=optimizer, validation_data=given, sample_weight=np.arange(ROWS)
    )
    assert [history.steps for history in histories] == [6, 6]
    np.testing.assert_allclose(*(model(given[0], 4) for model in models), rtol=2e-5)


@pytest.mark.parametrize("sizes", [[4, 3], [3, 7, 5, 2]], ids=str)
def test_other_networks(device, sizes):
    """One layer, and three with activations of rows, of which one saves its pre-activation; float64, squared error."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, sizes[0])), rng.normal(size=(9, sizes[-1]))
    hidden, layers = ["softmax", "silu"][: len(sizes) - 2], len(sizes) - 1
    plan = Plan(3, ("tiles",) * layers, "instructions", ("own", "library", "library")[:layers])
    rest = {"activation": hidden, "output": "tanh", "dtype": "float64"}
    made = [fm.MLP(sizes, **rest, backend=device, plan=plan), fm.MLP(sizes, **rest, backend="python")]
    for model in made:
        model.fit(x, y, loss="mse", epochs=2, batch_size=5, optimizer="rmsprop", progress=False)
    for name, value in made[1].state_dict().items():
        np.testing.assert_allclose(made[0].state_dict()[name], value, rtol=1e-12, atol=1e-14)


MIXES = [("library", "library", "own"), ("library", "own", "library"), ("own", "library", "own")]


@pytest.mark.parametrize("products", MIXES, ids="-".join)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "softmax"])
def test_short_batches_beside_a_library(device, products, activation):
    """A library's product takes the rows that a short batch lacks as well: whoever writes them, they are zero."""
    sizes = [3, 4, 4, 2]
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
    plan = Plan(4, ("tiles",) * 3, "instructions", products)
    made = [fm.MLP(sizes, activation, backend=device, plan=plan), fm.MLP(sizes, activation, backend="python")]
    for model in made:
        model.fit(x, y, loss="mse", epochs=2, batch_size=4, optimizer=fm.SGD(0.1), progress=False)
    same(*(model.state_dict() for model in made))


def test_a_nan_with_data_on_their_way(device, given, monkeypatch):
    """A run that ends within a block waits for the copy of the next one."""
    x, y = np.tile(given[0], (3, 1)), np.tile(given[1], 3)
    x[2] = np.nan
    monkeypatch.setattr(staging, "BLOCK", 4 * (x[:1].nbytes + 8))
    monkeypatch.setattr(device, "place", lambda data: data)
    model = fm.MLP(SIZES, backend=device, plan=PLANS["library"])
    with pytest.raises(fm.NonFiniteLoss):
        model.fit(x, y, loss="cross_entropy", epochs=1, batch_size=4, shuffle=False, progress=False)


def test_one_launch_for_small_steps_alone(device, monkeypatch):
    """A network that fits on chip, with a batch that a few blocks would work at for long, or exchange much of."""
    monkeypatch.setattr(device._driver, "multiprocessors", 132)
    monkeypatch.setattr(device._driver, "shared_of_a_block", 227 << 10)
    single = np.dtype(np.float32)

    def launch(sizes, batch):
        return device.plan(fm.MLP(sizes)._network, single, batch).launch

    assert launch([784, 128, 10], 64) == "steps"
    assert launch([784, 16, 10], 100_000) == launch([64, 512, 10], 8192) == "instructions"
    assert launch([784, 1024, 1024, 10], 512) == "instructions"


@pytest.fixture
def by_library(monkeypatch):
    """Every product that a plan chooses is a library's."""
    monkeypatch.setattr(cuda_backend, "MULTIPLICATIONS_OF_A_BLOCK", 0)
    monkeypatch.setattr(cuda_backend, "PRODUCTS_OF_A_LIBRARY", 1)


TRAINING = {"loss": "cross_entropy", "epochs": 1, "batch_size": 4, "progress": False}


def classifier(backend, plan=None, output="softmax", **options):
    return fm.MLP(SIZES, activation="gelu", output=output, backend=backend, plan=plan, **options)


def algorithms_run(backend):
    """The algorithm that was given for each product, by the product in words, since this was last asked."""
    launches = [launch for launch in backend._driver.launches if launch.entry == "product"]
    backend._driver.launches.clear()
    return {str(launch.kind): launch.arguments[-1] for launch in launches}


def test_algorithms_travel_with_a_plan(by_library, given):
    """A plan takes the choice of one cuBLASLt to a model on another, which would have chosen differently: the same
    algorithms run there, and make the same bits."""
    libraries = FakeCublasLt(first=1), FakeCublasLt()
    here, there = map(SimulatedBackend, libraries)
    model = classifier(here)
    model.fit(*given, **TRAINING)
    plan, trained = model._executor.plan(4), algorithms_run(here)
    assert len(plan.algorithms) == len(trained) == 5, "forward and update of two layers, backward of one"
    assert trained == {product: plan.algorithm(product) for product in trained}
    assert trained == {product: numbered(algorithm, 1) for product, algorithm in trained.items()}

    other = classifier(there, plan)
    other.fit(*given, **TRAINING)
    assert algorithms_run(there) == trained
    assert set(libraries[1].ran) == set(libraries[0].ran) == {1}
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value)

    alone = classifier(there)
    alone.fit(*given, **TRAINING)
    assert libraries[1].ran[0] > 0 and alone._executor.plan(4) != plan


def test_algorithms_are_of_the_whole_training(by_library, device, given):
    """Each product that a training or a gradient of that batch runs is named, whether or not the loss takes the
    output's activation; a product of another batch is not, and has the first choice."""
    x, y = given[0], np.eye(3, dtype=np.float32)[given[1]]
    model = classifier(device, output="sigmoid")
    for loss in ("binary_cross_entropy", "mse"):
        model.fit(x, y, **TRAINING | {"loss": loss})
    plan, run = model._executor.plan(4), algorithms_run(device)
    assert run.keys() == dict(plan.algorithms).keys() and None not in run.values()
    assert len(run) == 5, "forward and update of two layers, backward of one, whatever the loss"
    model.loss_and_gradients(x[:4], y[:4], "mse")
    assert algorithms_run(device) == run
    short = classifier(device, plan, output="sigmoid")
    short.fit(x, y, **TRAINING | {"loss": "mse", "batch_size": 3})
    assert set(algorithms_run(device).values()) == {None}


FORMATS = [
    ({}, "in float32 by float32,"),
    ({"precision": "bf16"}, "in float32 by bf16,"),
    ({"dtype": "float64"}, "in float64 by float64,"),
]


@pytest.mark.parametrize("options, words", FORMATS, ids=str)
def test_algorithms_are_chosen_the_same_each_time(by_library, options, words):
    """By any backend with the same cuBLASLt; they are those of the model's dtype and precision."""
    plans = [classifier(SimulatedBackend(), **options)._executor.plan(4) for _ in range(2)]
    assert plans[0] == plans[1] and hash(plans[0]) == hash(plans[1])
    assert plans[0].algorithms and all(words in product for product, _ in plans[0].algorithms)


def test_algorithms_are_described(by_library, device, given):
    """A line each, with the digits that a plan takes."""
    model = classifier(device)
    model.fit(*given, **TRAINING)
    plan = model._executor.plan(4)
    _, _, shown = model.describe().partition("\nbatches of 4: ")
    lines = [line.strip().rpartition(": ") for line in shown.splitlines()[1:]]
    assert tuple((product, digits) for product, _, digits in lines) == plan.algorithms
    assert f"plan as given: {plan}" in classifier(device, plan).describe()


def refused(plan):
    """The plan with an algorithm that this cuBLASLt has not got, for the last product of a step."""
    *others, (product, digits) = plan.algorithms
    return replace(plan, algorithms=(*others, (product, numbered(bytes.fromhex(digits), 2).hex())))


def cut_short(plan):
    return replace(plan, algorithms=tuple((product, "00ff") for product, _ in plan.algorithms))


@pytest.mark.parametrize(
    "change, words", [(refused, "CUBLAS_STATUS_NOT_SUPPORTED"), (cut_short, "expected 64 bytes, got 2")]
)
def test_an_algorithm_that_is_refused(by_library, device, given, change, words):
    """Before anything is launched."""
    model = classifier(device, change(classifier(device)._executor.plan(4)))
    before = model.state_dict()
    for call in (lambda: model.fit(*given, **TRAINING), lambda: model.loss_and_gradients(given[0][:4], given[1][:4])):
        with pytest.raises(ValueError, match=f"plan: its algorithms are refused here .*version of cuBLAS.*{words}"):
            call()
    assert not device._driver.launches
    same(before, model.state_dict())


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


def by_graphs(device, monkeypatch, **options):
    """A model whose steps are captured by twos, in calls of five."""
    monkeypatch.setattr(launches, "STEPS_OF_A_GRAPH", (2, 1))
    model = fm.MLP(SIZES, activation="tanh", backend=device, plan=PLANS["mixed"])
    monkeypatch.setattr(model._executor, "_steps_of_a_call", lambda key: 5)
    return model, fm.MLP(SIZES, activation="tanh", backend="python")


def test_graphs_serve_every_epoch(device, given, monkeypatch):
    """Six steps an epoch in calls of five and one: what is captured in the first epoch serves the others, though order,
    scalars and losses are new; the last step of an epoch is short."""
    models = by_graphs(device, monkeypatch)
    captures = []
    capture = device._driver.capture
    monkeypatch.setattr(device._driver, "capture", lambda *given: captures.append(1) or capture(*given))
    trained_alike(models, given, epochs=3, batch_size=2)
    # A first step by itself, then 2 + 2 and 1; twice 2 + 2 + 1 and 1.
    assert (len(captures), device._driver.replays) == (2, 3 + 2 * 4)


def test_what_a_graph_holds(device, given, monkeypatch):
    """A graph of two steps is what two steps launch, in that order, and the clock's advance behind them. It keeps its
    arrays alive, and the end of `fit` lets go of both."""
    model, _ = by_graphs(device, monkeypatch)
    driver, graphs = device._driver, []
    capture = driver.capture
    monkeypatch.setattr(driver, "capture", lambda *given: graphs.append(capture(*given)) or graphs[-1])
    placed = []
    monkeypatch.setattr(device, "place", lambda data: placed.append(type(device).place(device, data)) or placed[-1])
    freed, by_itself = [], []

    def within(model, history):
        if history.epochs == 1:
            weakref.finalize(placed[0].x, freed.append, "x")
            by_itself.extend(launch.entry for launch in driver.launches)
        placed.clear()
        driver.launches.clear()
        gc.collect()
        assert not freed, "the data are gone, and the graphs remain"

    model.fit(*given, loss="cross_entropy", epochs=2, batch_size=2, progress=False, callbacks=[within])
    step = by_itself.index("advance")
    held = [[launch.entry for launch in graph] for graph in graphs]
    assert held == [by_itself[:step] * steps + ["advance"] for steps in (2, 1)]
    graphs.clear()
    driver.launches.clear()
    placed.clear()
    gc.collect()
    assert freed == ["x"]


def test_a_graph_stops_within(device, given, monkeypatch):
    """A loss that is not finite in the first of a graph's two steps: neither of them touches a parameter."""
    x, y = given[0].copy(), given[1]
    x[3] = np.inf
    models = by_graphs(device, monkeypatch)
    for model in models:
        with pytest.raises(fm.NonFiniteLoss) as caught:
            model.fit(x, y, loss="cross_entropy", epochs=1, batch_size=1, shuffle=False, progress=False)
        assert caught.value.step == 3
    same(*(model.state_dict() for model in models))


@pytest.mark.parametrize("models, weighted", [("steps", True), ("library", False)], indirect=["models"])
def test_data_that_have_no_room(models, given, monkeypatch, weighted):
    """Rows are brought in blocks of two steps, of which there are three; validation data and predictions as well. One
    feed serves all epochs, so what was captured in the first two serves the third (calls of two steps, after the first
    of one, may take larger arrays)."""
    device = models[0]._backend
    captured, capture = [], device._driver.capture
    monkeypatch.setattr(device._driver, "capture", lambda *asked: captured.append("a graph") or capture(*asked))
    x, y = np.tile(given[0], (3, 1))[:17], np.tile(given[1], 3)[:17]
    row = x[:1].nbytes + 8 + 4 * weighted
    monkeypatch.setattr(staging, "BLOCK", 8 * row)
    monkeypatch.setattr(device, "place", lambda data: data)
    feeds = []
    monkeypatch.setattr(device, "feed", lambda *data: feeds.append(type(device).feed(device, *data)) or feeds[-1])
    trained_alike(
        models,
        (x, y),
        epochs=3,
        batch_size=4,
        sample_weight=np.arange(17) if weighted else None,
        validation_data=(x, y),
        callbacks=[lambda model, history: captured.append("an epoch")],
    )
    assert feeds[0].longest == 2 and sum(feed.longest == 2 for feed in feeds) == 1
    last_begins = captured.index("an epoch", captured.index("an epoch") + 1)
    assert "a graph" not in captured[last_begins:]


def test_data_that_fit_one_block_take_one(models, given, monkeypatch):
    """The gradients of all rows as one batch, of data that have no room: a copy of them, and no room for another."""
    model, memory = models[0], models[0]._backend.memory
    monkeypatch.setattr(model._backend, "place", lambda data: data)
    memory.allocations.clear()
    model.loss_and_gradients(*given)
    assert memory.allocations.count(given[0].nbytes) == 1


def test_gradients_of_data_on_the_device(models, given):
    """They stay there, and a step by them brings nothing to the host or back but the loss."""
    (model, other), memory = models, models[0]._backend.memory
    optimizers = [fm.Adam(0.01), fm.Adam(0.01)]
    here = tuple(map(memory.to_device, given))
    for _ in range(2):
        loss, gradients = model.loss_and_gradients(*here)
        expected, of_other = other.loss_and_gradients(*given)
        np.testing.assert_allclose(loss, expected, rtol=2e-5)
        assert all(memory.holds(gradient) for gradient in gradients.values())
        same(gradients, of_other)
        model.update(gradients, optimizers[0])
        other.update(of_other, optimizers[1])
    same(model.state_dict(), other.state_dict())
    model.load_state_dict({name: memory.to_device(0 * value) for name, value in other.state_dict().items()})
    assert not any(value.any() for value in model.state_dict().values())


def test_one_model_on_two_streams(models, given, monkeypatch):
    """A call on another stream begins where the last one's work on the buffer ends; on the same one nobody waits."""
    model, memory = models[0], models[0]._backend.memory
    followed, wait_for = [], memory.wait_for

    def noted(moment):
        followed.append((memory.stream, moment.queue))
        wait_for(moment)

    monkeypatch.setattr(memory, "wait_for", noted)
    for stream in (0, 7, 7, 0):
        monkeypatch.setattr(memory, "stream", stream)
        model(given[0])
    assert followed == [(0, 0), (7, 0), (7, 7), (0, 7)]
    followed.clear()

    def elsewhere(model, history):
        memory.stream = 7
        model(given[0])
        memory.stream = 0

    model.fit(*given, loss="cross_entropy", epochs=2, batch_size=4, progress=False, callbacks=[elsewhere])
    beside = [(7, 0), (0, 7)]  # the callback waits for the training, and the next epoch for it
    assert followed == [(0, 0), *beside, *beside]


def test_a_failure_leaves_the_model_free(models, given, monkeypatch):
    """Whatever goes wrong at the end of a call, the next one is not refused."""
    model, memory = models[0], models[0]._backend.memory
    with monkeypatch.context() as broken:
        broken.setattr(memory, "moment", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(given[0])
    assert model(given[0]).shape == (ROWS, SIZES[-1])


def test_ctrl_c_within_an_update(models, given, monkeypatch):
    """All of the step is done and counted, or nothing of it."""
    (model, other), driver = models, models[0]._backend._driver
    _, gradients = other.loss_and_gradients(*given)
    optimizers = [fm.Adam(0.01), fm.Adam(0.01)]
    launch, numbers = driver.launch, itertools.count()

    def interrupted(*arguments):
        if next(numbers) == 1:
            signal.raise_signal(signal.SIGINT)
        launch(*arguments)

    monkeypatch.setattr(driver, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.update(gradients, optimizers[0])
    model.update(gradients, optimizers[0])
    for _ in range(2):
        other.update(gradients, optimizers[1])
    same(model.state_dict(), other.state_dict())


def on_another_stream(device, given, monkeypatch):
    """Two predictions, the second on another stream. Their answers stay there, so the host waits for neither."""
    model, x = fm.MLP(SIZES, backend=device), device.memory.to_device(given[0])
    model(x)
    with monkeypatch.context() as changed:
        changed.setattr(device.memory, "stream", 7)
        model(x)


def block_after_block(device, given, monkeypatch):
    """A prediction whose rows come in blocks of two batches, each in the place of the last but one; the host waits for
    none of them."""
    model = fm.MLP(SIZES, backend=device)
    monkeypatch.setattr(staging, "BLOCK", 8 * given[0][:1].nbytes)
    monkeypatch.setattr(device, "place", lambda data: data)
    model(np.tile(given[0], (4, 1)), 4)


def copies_after(choose):
    """A copier whose copies wait for what `choose` makes of the moments given so far."""
    copy, moments = StandInCopier.copy, []

    def planted(copier, target, source, after):
        moments.append(after)
        copy(copier, target, source, choose(moments))

    return StandInCopier, "copy", planted


RACES = {
    "a model that does not wait for another stream": (
        on_another_stream,
        lambda: (StandInMemory, "wait_for", lambda memory, moment: None),
        "on queue 7 does not wait for what 0 does there",
    ),
    "a copy over a block that is being read": (
        block_after_block,
        lambda: copies_after(lambda moments: moments[0]),
        "a copy on queue copies .* does not wait for what 0 does there",
    ),
    "a copy that waits for nothing": (
        block_after_block,
        lambda: copies_after(lambda moments: None),
        "None, which is no moment",
    ),
    "a launch that does not wait for its block": (
        block_after_block,
        lambda: (StandInCopier, "join", StandInCopier._make),
        "one.gather on queue 0 does not wait for what copies .* does there",
    ),
}


@pytest.mark.parametrize("race", RACES)
def test_planted_races_are_found(device, given, monkeypatch, race):
    """Where nothing is planted the same work passes."""
    work, fault, words = RACES[race]
    work(device, given, monkeypatch)
    monkeypatch.setattr(*fault())
    with pytest.raises(AssertionError, match=words):
        work(device, given, monkeypatch)
    for copier in device._driver.copiers:
        copier.wait()


@pytest.mark.parametrize("models", ["steps", "library"], indirect=True)
def test_out_of_memory_says_what_would_fit(models, given):
    """The batch that the error names fits, one more row does not, and the model is what it was."""
    model = models[0]
    model.fit(*given, loss="cross_entropy", epochs=1, batch_size=2, progress=False)
    before = model.state_dict()
    x, y = np.tile(given[0], (3, 1)), np.tile(given[1], 3)
    model._backend.memory.free = 8_000

    def fit(rows):
        model.fit(x, y, loss="cross_entropy", epochs=1, batch_size=rows, progress=False, shuffle=False)

    with pytest.raises(OutOfMemory, match=r"out of memory: \d+ bytes were asked for, and 8000 are free; batch_size="):
        fit(len(x))
    with pytest.raises(OutOfMemory) as caught:
        fit(len(x))
    same(before, model.state_dict())
    fits = caught.value.batch
    assert 2 < fits < len(x)
    with pytest.raises(OutOfMemory):
        fit(fits + 1)
    same(before, model.state_dict())
    fit(fits)


@pytest.mark.parametrize("at", [2, 7])
def test_ctrl_c_between_two_launches(models, given, monkeypatch, at):
    """The steps that were begun are finished and counted: the model is what so many steps make it, and goes on so."""
    (model, other), driver = models, models[0]._backend._driver
    launch, numbers = driver.launch, itertools.count()

    def interrupted(*arguments):
        if next(numbers) == at:
            signal.raise_signal(signal.SIGINT)
        launch(*arguments)

    monkeypatch.setattr(driver, "launch", interrupted)
    optimizers = [fm.Adam(0.01), fm.Adam(0.01)]
    options = {"loss": "cross_entropy", "batch_size": 1, "shuffle": False, "progress": False}
    history = model.fit(*given, epochs=30, optimizer=optimizers[0], **options)
    assert history.interrupted and history.steps > 0
    epochs, rest = divmod(history.steps, ROWS)
    if epochs:
        other.fit(*given, epochs=epochs, optimizer=optimizers[1], **options)
    for count in [rest] * (rest > 0) + [ROWS]:
        other.fit(given[0][:count], given[1][:count], epochs=1, optimizer=optimizers[1], **options)
    model.fit(*given, epochs=1, optimizer=optimizers[0], **options)
    same(model.state_dict(), other.state_dict())


def test_launches_are_within_the_device(models, given):
    """No launch is empty, none has more blocks than its plan allows, and what meets has no more than may meet. Tiles of
    a batch are more than the training's plan allows, so that it counts."""
    model, driver = models[0], models[0]._backend._driver
    model.fit(*given, loss="cross_entropy", epochs=1, batch_size=ROWS, progress=False)
    training = list(driver.launches)
    driver.launches.clear()
    model(given[0])
    prediction = model._backend.prediction_plan(model._network, np.dtype(np.float32), ROWS)
    for launches_of, plan in ((training, model._executor.plan(ROWS)), (driver.launches, prediction)):
        assert launches_of
        for launch in launches_of:
            assert 1 <= launch.blocks <= plan.workers, launch.entry
            if launch.entry in entries.MEETING:
                assert launch.blocks <= driver.most_blocks(launch.entry, launch.kind)
    if model._executor.plan(ROWS).launch == "instructions":
        assert max(launch.blocks for launch in training) == model._executor.plan(ROWS).workers < prediction.workers


def test_blocks_of_a_launch(device, given):
    """A block has a tile (4 x 4 here) of what is done element by element, and a row of what is done row by row."""
    model = classifier(device, Plan(99, TILES, "instructions", ("library", "library")), output="identity")
    model.fit(given[0], np.eye(3, dtype=np.float32)[given[1]], **TRAINING | {"loss": "mse"})
    blocks = {}
    for launch in device._driver.launches:
        blocks.setdefault(launch.entry, set()).add(launch.blocks)
    assert blocks["one.gather"] == {2}, "4 x 5 elements"
    assert blocks["one.join"] == blocks["one.through_activation"] == {2}, "4 x 6"
    assert blocks["one.step_alone"] == {4, 2}, "6 x 5 and 3 x 6"
    assert blocks["one.loss"] == {4}, "4 rows"
    assert blocks["one.total"] == blocks["advance"] == {1}


@pytest.mark.parametrize("beyond_a_line", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("activation", ["identity", "tanh", "gelu", "softmax"])
def test_dense_layers_by_library(device, monkeypatch, activation, precision, beyond_a_line):
    """Products by cuBLASLt, their epilogues by us, dz in panels of three rows: what the fused kernels give, as near as
    the precision allows. cuBLASLt adds a bias where it can read 16 bytes of it at once; else we do."""
    monkeypatch.setattr(cuda_backend, "PRODUCTS_OF_A_LIBRARY", 1)
    monkeypatch.setattr(device, "panel", 3 * 6 * 4)
    rng = np.random.default_rng(2)
    x, weight, bias, dy = (rng.normal(size=size).astype(np.float32) for size in ((7, 5), (6, 5), 6, (7, 6)))
    carry, bring = device.memory.to_device, device.memory.to_host
    of_bias = carry(np.concatenate([np.zeros(64, np.float32), bias, np.zeros(1, np.float32)]))
    start = -of_bias.ctypes.data % 64 // 4 + beyond_a_line
    of_bias[start : start + 6] = bias
    there = of_bias[start : start + 6]
    y, backprop = device.dense(carry(x), carry(weight), there, activation, precision=precision)
    expected_y, expected_backprop = fm.get_backend("python").dense(x, weight, bias, activation)
    products = [launch for launch in device._driver.launches if launch.entry == "product"]
    assert {launch.kind.precision for launch in products} == {precision}
    assert [launch.kind.bias for launch in products] == [not beyond_a_line]
    rounding = {"float32": 2**-23, "tf32": 2**-10, "bf16": 2**-7}[precision]
    for found, expected in zip((y, *backprop(carry(dy))), (expected_y, *expected_backprop(dy)), strict=True):
        np.testing.assert_allclose(bring(found), expected, atol=30 * rounding)
    assert len([launch for launch in device._driver.launches if launch.entry == "bias_gradient"]) == 3


def test_precision_of_a_model(device, given):
    """The products of a training are made in the precision that the model was given; its parameters stay float32."""
    model = fm.MLP(SIZES, backend=device, plan=PLANS["library"], precision="tf32")
    model.fit(*given, loss="cross_entropy", epochs=1, batch_size=4, progress=False)
    products = [launch for launch in device._driver.launches if launch.entry == "product"]
    assert products and {launch.kind.precision for launch in products} == {"tf32"}
    assert all(array.dtype == np.float32 for array in model.state_dict().values())


@pytest.mark.parametrize("plan", ["steps", "instructions"])
def test_products_of_our_own_are_never_rounded(device, given, plan):
    """Whatever the precision, they give the same bits."""
    found = []
    for precision in (None, "bf16"):
        model = fm.MLP(SIZES, backend=device, plan=PLANS[plan], precision=precision)
        model.fit(*given, loss="cross_entropy", epochs=1, batch_size=4, progress=False)
        found.append([*model.state_dict().values(), model(given[0])])
    assert not [launch for launch in device._driver.launches if launch.entry == "product"]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_small_product_that_may_be_rounded_is_a_librarys(device):
    """A single kernel does as it is asked at any size; float64 has a precision of its own."""
    x, weight = (device.memory.to_device(np.ones(shape, np.float32)) for shape in ((2, 3), (4, 3)))
    device.dense_forward(x, weight)
    device.dense_forward(x, weight, precision="tf32")
    assert [launch.entry for launch in device._driver.launches] == ["forward", "product"]
    x, weight = (device.memory.to_device(np.ones(shape)) for shape in ((2, 3), (4, 3)))
    device.dense_forward(x, weight, precision="float64")
    assert device._driver.launches[-1].entry == "forward"


def test_data_on_the_device(models, given):
    """Data that lie there are taken as they are, and answers to them stay there."""
    device = models[0]._backend
    x, y = map(device.memory.to_device, given)
    for model, data in zip(models, ((x, y), given), strict=True):
        options = {"loss": "cross_entropy", "epochs": 1, "batch_size": 4, "sample_weight": np.arange(ROWS).tolist()}
        model.fit(*data, **options, validation_data=data, progress=False)
    same(*(model.state_dict() for model in models))
    found = models[0](x)
    assert isinstance(found, OnDevice)
    np.testing.assert_allclose(device.memory.to_host(found), models[1](given[0]), rtol=2e-5)


BAD_DATA = [
    (lambda x, y: {"y": np.array(y)}, TypeError, "expected all arrays on one device, got x on cuda, y on cpu"),
    (lambda x, y: {"y": y + 3}, ValueError, "y: expected class indices from 0 to 2 .*, got "),
    (lambda x, y: {"x": x[:, 1:]}, ValueError, r"x: expected shape \(N, 5\).*, got \(11, 4\)"),
]


@pytest.mark.parametrize("change, error, words", BAD_DATA, ids=["devices", "classes", "shape"])
def test_bad_data_on_the_device(device, given, change, error, words):
    """Class indices on the device are checked once, before the first step; nothing is written."""
    model = fm.MLP(SIZES, backend=device)
    before = model.state_dict()
    x, y = map(device.memory.to_device, given)
    with pytest.raises(error, match=words):
        model.fit(**{"x": x, "y": y} | change(x, y), loss="cross_entropy", epochs=1)
    same(before, model.state_dict())
    assert not device._driver.launches


def test_the_words_of_a_stop_are_written_once(models, given, monkeypatch):
    """Before each call, whichever way it goes, and with the room for weights among them where there is any."""
    model, memory = models[0], models[0]._backend.memory
    clear, renewed, starts, written = memory.clear, memory.renewed, [], []

    def seen(array):
        if array is not None and (array.shape, array.dtype) == ((SYNC_LENGTH,), np.int64):
            written.append(array.copy())
        return array

    monkeypatch.setattr(memory, "clear", lambda array: (clear(array), seen(array)))
    monkeypatch.setattr(memory, "renewed", lambda old, array: seen(renewed(old, array)))
    start = model._backend._start
    monkeypatch.setattr(model._backend, "_start", lambda call: starts.append(call) or start(call))
    model.fit(*given, loss="cross_entropy", epochs=1, batch_size=4, progress=False)
    assert len(written) == len(starts) > 0
    room = StandIn.HOME // 4 if starts[0].plan.launch == "steps" else 0
    for words in written:
        assert words.tolist() == [0, 0, room]


def test_info(device, monkeypatch):
    """Where there is a device, auto is cuda, and the report has what the driver knows of it."""
    monkeypatch.delenv("FUSEDMLP_BACKEND", raising=False)
    monkeypatch.setattr(cuda_driver, "absence", lambda: None)
    monkeypatch.setitem(backends._made, "cuda", device)
    said = info.report()
    assert "\n  auto    cuda (a device can be used)\n" in said
    assert "\n  cuda    cuda: compiled by Numba CUDA for the simulator, 2 multiprocessors\n" in said
    assert "\n          products: cuBLASLt on NumPy" in said


def test_more_workers_than_may_meet(device, given):
    """A plan with more blocks than the device holds at once is refused before anything runs."""
    model = fm.MLP(SIZES, backend=device, plan=Plan(3, ("out", "in")))
    before = model.state_dict()
    with pytest.raises(ValueError, match="plan: expected at most the 1 workers that may meet, got 3"):
        model.fit(*given, loss="cross_entropy", epochs=1, progress=False)
    same(before, model.state_dict())
