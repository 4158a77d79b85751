"""What test_threads.py runs in processes of its own, where a thread or a child that is left waiting would stay:
`python sharing.py scenario`. An assertion that fails is an exit status."""

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType

import numpy as np
from numba import njit

import fusedmlp as fm
import runs

KINDS = [("out", 2), ("in", 2), ("rows", 2), ("out", 1)]
# On two processors, which `crowd_in` leaves.
CROWDED = [("out", 4), ("in", 4), ("rows", 4), ("out", 2)]


def training(seed, kind=("out", 2), rows=200, steps_of_a_call=None):
    """The parameters after a training, and a prediction: a new model for each call."""
    partition, workers = kind
    given = runs.data(rows=rows, seed=seed)
    made = runs.executor(fm.get_backend("cpu"), partition=partition, workers=workers, seed=seed)
    if steps_of_a_call is not None:
        made._steps_of_a_call = lambda key: steps_of_a_call
    parameters = runs.trained(made, given, epochs=2)[1]
    return parameters | {"prediction": made.predict(given.x)}


def kernels(seed):
    """One call of several kernels, those of products large enough to be shared out."""
    rng, backend = np.random.default_rng(seed), fm.get_backend("cpu")
    x, weight, dy = (rng.normal(size=size).astype(np.float32) for size in ((300, 200), (150, 200), (300, 150)))
    y, backprop = backend.dense(x, weight, None, "gelu")
    dx, dweight, _ = backprop(dy)
    loss, gradient = backend.cross_entropy(y, rng.integers(0, 150, 300))
    return {"y": y, "dx": dx, "dweight": dweight, "loss": loss, "gradient": gradient, "p": backend.softmax(dy)}


def work(seed):
    return training(seed) | kernels(seed)


def expected(function, seeds):
    return [function(seed) for seed in seeds]


def check(found, right):
    for one, other in zip(found, right, strict=True):
        runs.assert_same(one, other)


def share_out():
    """Makes calls of single kernels use two workers, whatever the machine has and its rates say."""
    backend = fm.get_backend("cpu")
    backend.workers_for = lambda flops: 2
    return backend


def in_child(function):
    """Runs a function in a forked child, which must end well within 20 s."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with status {status}"
            return
        time.sleep(0.01)
    os.kill(child, 9)
    raise AssertionError("the child hangs")


def fork_after_use():
    share_out()
    right = expected(work, range(2))
    for _ in range(3):
        in_child(lambda: check(expected(work, range(2)), right))
        check(expected(work, range(2)), right)  # and the parent goes on
    in_child(lambda: in_child(lambda: check(expected(work, range(2)), right)))


def fork_within_a_training():
    """Another thread trains while this one forks: the child inherits its locks as they stood."""
    share_out()
    right, over = expected(work, range(2)), threading.Event()

    def train():
        while not over.is_set():
            training(7)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(10):
            in_child(lambda: check(expected(work, range(2)), right))
    finally:
        over.set()
        trainer.join()


def multiprocessing_fork():
    share_out()
    right = expected(work, range(4))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        check(pool.map_async(work, range(4)).get(30), right)


def four_threads():
    """Kernels and different models from four threads at once, a few times each."""
    share_out()
    right = expected(work, range(4))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            check(pool.map(work, range(4)), right)


def four_first_calls():
    """Four threads whose first calls come at once: one compiles or loads, all are right."""
    gate = threading.Barrier(4)

    def first(seed):
        gate.wait()
        return work(seed)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(first, range(4)))
    check(found, expected(work, range(4)))


def side_by_side():
    """Two trainings at once, for every pair of ways to share out: each as if it were alone. Each step is a call, and
    Python changes threads as often as it can, so that the hand-overs of two calls meet."""
    alone = {kind: training(3, kind, 800) for kind in KINDS}
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(2) as pool:
        for pair in [(one, other) for one in KINDS for other in KINDS]:
            found = pool.map(lambda kind: training(3, kind, 800, steps_of_a_call=1), pair)
            check(found, [alone[kind] for kind in pair])


def crowd_in():
    """Leaves this process two processors, or the one that it has. Threads that start from now on share them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def more_workers_than_processors():
    """Four workers on two processors, again and again, and beside another training of four workers or of two: each as
    if it were alone."""
    crowd_in()
    alone = {kind: training(3, kind) for kind in CROWDED}
    check([training(3, kind) for kind in CROWDED], alone.values())
    with ThreadPoolExecutor(2) as pool:
        for pair in [(one, other) for one in CROWDED for other in CROWDED]:
            check(pool.map(lambda kind: training(3, kind), pair), [alone[kind] for kind in pair])


def digests():
    """Of what trainings of four workers and of two find on two processors; one after the other for some seconds."""
    crowd_in()
    for seed in range(5):
        for kind in CROWDED:
            found = training(seed, kind)
            print(kind, seed, hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest())


def one_call_at_a_time():
    """A gang gives all its threads to one call, and to the next one only when that has ended. Every line of the
    hand-over takes a while, drawn anew each time, so that those of three callers meet."""
    from fusedmlp.backends import gang

    crew, inside, mixed = gang.Gang(2), [], []

    def slowly(frame, event, argument):
        if frame.f_code.co_filename == gang.__file__:
            time.sleep(0.001 * random.random())
            return slowly
        return None

    def work(number, call, barrier):
        inside.append(call)
        barrier.wait(10)
        time.sleep(0.001)
        mixed.extend(other for other in inside if other != call)
        barrier.wait(10)
        inside.remove(call)

    def calls(caller):
        sys.settrace(slowly)
        for i in range(40):
            arguments = (caller, i), threading.Barrier(2)
            crew.run(work, (0, 1), arguments, lambda: None, arguments[1].abort)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(calls, range(3)))
    assert mixed == inside == []


def listening():
    """Calls that come while the worker of the one before still listens, just as it stops, and when it sleeps; and it
    does sleep, for nobody is to burn a core between calls."""
    backend, right = share_out(), kernels(0)
    for gap in np.random.default_rng(1).uniform(0, 6e-4, 200):
        until = time.perf_counter() + gap
        while time.perf_counter() < until:
            pass
        runs.assert_same(kernels(0), right)
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - used < 0.05, "somebody is awake"
    bell = backend._gangs(2).bell
    rung = bell[0]
    backend.launch("meet", np.dtype("float32"), 2, 0)
    assert bell[0] == rung + 1


def handler_within_a_training():
    """While the calling thread waits for a gang, a signal's handler may compute on it, and disturbs nothing."""
    backend, given = fm.get_backend("cpu"), runs.data(rows=800_000)

    def trained(workers):
        made = runs.executor(backend, partition="out", workers=workers)
        made._steps_of_a_call = lambda key: sys.maxsize
        return runs.trained(made, given)[1]

    def handler(number, frame):
        found.append(kernels(0))
        made = runs.executor(backend, partition="in", workers=1)
        found[-1]["prediction"] = made.predict(given.x[:300])
        signal.setitimer(signal.ITIMER_REAL, 0.005)

    expected = [trained(workers) for workers in (1, 2)]
    backend.workers_for = lambda flops: 1
    prediction = runs.executor(backend, partition="in", workers=1).predict(given.x[:300])
    right = kernels(0) | {"prediction": prediction}
    for workers in (1, 2):
        found = []
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        try:
            while len(found) <= 3:  # on a machine with much to do a training may be over sooner
                runs.assert_same(trained(workers), expected[workers - 1])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        for one in found:
            runs.assert_same(one, right)


def listener():
    """What a worker does that listens: it stays until the bell rings, or its time is over."""
    from fusedmlp.backends.cpu import meeting

    sync, bell = np.zeros(meeting.SYNC_LENGTH, np.int64), np.zeros(8, np.int64)
    patient = FunctionType(meeting.end.py_func.__code__, vars(meeting) | {"TURNS": 2**60})

    def listening(end):
        compiled = njit(nogil=True)(end)
        compiled(0, 1, sync, bell)  # made, and nobody waits
        thread = threading.Thread(target=compiled, args=(1, 2, sync, bell), daemon=True)
        thread.start()
        return thread

    until_it_rings = listening(patient)
    until_it_rings.join(0.1)
    assert until_it_rings.is_alive() and sync[meeting.LEFT] == 1
    bell[0] += 1
    until_it_rings.join(10)
    assert not until_it_rings.is_alive()
    no_longer = listening(meeting.end.py_func)
    no_longer.join(10)
    assert not no_longer.is_alive() and sync[meeting.LEFT] == 2


def joblib_workers():
    from joblib import Parallel, delayed

    import sharing

    right = expected(work, range(4))
    check(Parallel(n_jobs=2, timeout=100)(delayed(sharing.work)(seed) for seed in range(4)), right)


def blas_threads():
    """SciPy's BLAS has one thread while our workers multiply, and afterwards what it had, also where a call failed.
    NumPy's is let alone."""
    from threadpoolctl import ThreadpoolController

    import stops

    backend = share_out()
    fm.dense_forward(np.ones((300, 200), np.float32), np.ones((150, 200), np.float32))  # which brings that BLAS
    blas = ThreadpoolController().select(user_api="blas").lib_controllers
    blas = [library for library in blas if "scipy.libs" in library.filepath] or blas
    assert blas
    x = np.ones((64, 32), np.float32)

    def counts():
        return [library.get_num_threads() for library in blas]

    for library in blas:
        library.set_num_threads(2)
    assert set(counts()) == {2}, "this BLAS cannot be told its number of threads"
    within = []
    with stops.Recorded(backend, lambda context: within.append(counts())):
        fm.dense_forward(x, x)
        training(0, ("out", 1))
    assert len(within) > 1 and all(set(found) == {1} for found in within), within
    assert set(counts()) == {2}

    def fail(context):
        raise ZeroDivisionError

    with stops.Recorded(backend, fail):
        for call in (lambda: training(0), lambda: training(0, ("out", 1)), lambda: kernels(0)):
            try:
                call()
            except ZeroDivisionError:
                assert set(counts()) == {2}
            else:
                raise AssertionError("the planted failure was lost")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert set(counts()) == {2}


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
