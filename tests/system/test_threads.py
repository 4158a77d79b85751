"""Threads and processes: calls from several at once, and forks at any time, give the answers of one call alone; what
belongs to the caller (BLAS's threads, the treatment of subnormals) is afterwards what it was."""

import threading

import numpy as np
import pytest

import fusedmlp as fm
import processes
import runs
from fusedmlp.backends.plan import Plan

pytestmark = [pytest.mark.alone, pytest.mark.timeout(150)]

SCENARIOS = [
    "fork_after_use",
    "fork_within_a_training",
    "multiprocessing_fork",
    "four_threads",
    "four_first_calls",
    "side_by_side",
    "more_workers_than_processors",
    "one_call_at_a_time",
    "listening",
    "listener",
    "handler_within_a_training",
    "joblib_workers",
    "blas_threads",
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_sharing(scenario):
    # Python 3.12 and newer warn of a fork beside threads, which is what is tried here.
    script = processes.HERE / "sharing.py"
    arguments = ("-W", "ignore:.*multi-threaded:DeprecationWarning", script, scenario)
    products = {"FUSEDMLP_CPU_PRODUCTS": "blas"} if scenario == "blas_threads" else {}
    output, _ = processes.finish(processes.start(*arguments, **products), 120)
    assert output.endswith("done\n")


def test_two_processes_with_more_workers_than_processors():
    """Eight workers on two processors: both processes find what one finds alone."""
    started = [processes.start(processes.HERE / "sharing.py", "digests") for _ in range(2)]
    together = [processes.finish(process, 120)[0] for process in started]
    alone, _ = processes.finish(processes.start(processes.HERE / "sharing.py", "digests"), 120)
    assert alone.count("\n") == 21 and alone.endswith("done\n")
    assert together == [alone, alone]


def subnormals_count(scalar):
    """Whether this thread computes with subnormal numbers as IEEE 754 has it."""
    tiny = np.finfo(scalar).smallest_subnormal * np.ones(17, scalar) * scalar(2)
    return bool(((tiny * scalar(1) != 0) & (tiny + tiny != 0)).all())


@pytest.mark.parametrize("workers", [1, 2])
def test_callers_subnormals_are_left_alone(workers):
    """The compiled calls count subnormals as zero; the caller's next operation does not, in any thread."""
    backend = fm.get_backend("cpu")
    tiny = np.full((3, 5), 1e-40, np.float32)
    found = []

    def call():
        for dtype in ("float32", "float64"):
            runs.trained(runs.executor(backend, workers=workers, dtype=dtype), runs.data(dtype=dtype))
        parameter, optimizer = np.zeros_like(tiny), fm.SGD(lr=1.0)
        backend.update_inplace(optimizer, parameter, tiny, optimizer.init(parameter))
        found.append((bool((parameter == 0).all()), subnormals_count(np.float32), subnormals_count(np.float64)))

    call()
    other = threading.Thread(target=call)
    other.start()
    other.join()
    assert found == [(True, True, True)] * 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("partition", ["out", "in", "rows", ("in", "out", "rows")], ids=str)
@pytest.mark.parametrize("workers", [1, 2])
def test_same_seed_and_plan_are_bitwise_equal(workers, partition, dtype):
    backend, given = fm.get_backend("cpu"), runs.data(rows=200, dtype=dtype, weights=True)
    results = []
    for _ in range(3):
        made = runs.executor(backend, partition=partition, workers=workers, dtype=dtype)
        losses, parameters = runs.trained(made, given, epochs=2)
        results.append(parameters | {"losses": losses, "prediction": made.predict(given.x)})
    runs.assert_same(results[0], results[1])
    runs.assert_same(results[0], results[2])


def model(seed, workers=2, **options):
    return fm.MLP([7, 40, 3], seed=seed, backend="cpu", plan=Plan(workers, ("out", "in")), **options)


def fitted(seed, workers=2):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(200, 7)), rng.integers(0, 3, 200)
    made = model(seed, workers)
    history = made.fit(x, y, loss="cross_entropy", epochs=3, progress=False)
    return made.state_dict() | {"loss": np.array(history.loss), "y": made(x)}


@pytest.mark.parametrize("workers", [1, 2])
def test_fit_twice_is_bitwise_equal(workers):
    runs.assert_same(fitted(1, workers), fitted(1, workers))
    assert not runs.same(fitted(1, workers), fitted(2, workers))


def test_models_fit_side_by_side():
    right, found = [fitted(seed) for seed in range(4)], {}

    def fit(seed):
        found[seed] = fitted(seed)

    threads = [threading.Thread(target=fit, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seed in range(4):
        runs.assert_same(found[seed], right[seed])


def test_two_calls_on_one_model_at_once():
    """The second one is told so at once, and the first goes on undisturbed."""
    made, rng = model(0), np.random.default_rng(0)
    x, y = rng.normal(size=(64, 7)), rng.integers(0, 3, 64)
    errors, other = [], []

    def disturb():
        for call in (lambda: made(x), lambda: made.fit(x, y, loss="cross_entropy", epochs=1), made.state_dict):
            with pytest.raises(RuntimeError, match="in a call already") as caught:
                call()
            errors.append(caught.value)

    def callback(model, history):
        if not other:
            other.append(threading.Thread(target=disturb))
            other[0].start()
            other[0].join(30)

    history = made.fit(x, y, loss="cross_entropy", epochs=2, callbacks=[callback], progress=False)
    assert len(errors) == 3
    again = model(0)
    assert history.loss == again.fit(x, y, loss="cross_entropy", epochs=2, progress=False).loss
    runs.assert_same(made.state_dict(), again.state_dict())
