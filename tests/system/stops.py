"""What test_barrier.py runs in processes of its own, where a worker that is left waiting would stay: a scenario is a
function, run by `python stops.py scenario arguments`. An assertion that fails is an exit status."""

import dis
import itertools
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from itertools import product

import numpy as np

import fusedmlp as fm
import runs
import turns
from fusedmlp.backends import gang
from fusedmlp.backends.errors import NonFinite
from fusedmlp.kernels import optimizers

ASKED = 3  # a reason to stop like any other
PROMPT = 1.0  # seconds within which everything must have ended
PARTITIONS = ("out", "in", "rows", ("out", "in", "rows"))


class Recorded:
    """The cpu backend's entry with what each worker returned; `before` is called as a worker enters."""

    def __init__(self, backend, before=lambda context: None):
        self._backend, self._before, self.results = backend, before, []

    def __enter__(self):
        found = self._backend.entry

        def entry(body, dtype):
            def enter(context, *arguments):
                self._before(context)
                result = found(body, dtype)(context, *arguments)
                self.results.append(result)
                return result

            return enter

        self._backend.entry = entry
        return self

    def __exit__(self, *exception):
        del self._backend.entry


def in_one_call(made):
    """Makes an executor's next call run all steps that there are."""
    made._steps_of_a_call = lambda key: sys.maxsize
    return made


def failure():
    """Worker 1 raises before it enters; worker 0 waits for it at a barrier. The error comes out at once, and the next
    call runs."""
    backend, given = fm.get_backend("cpu"), runs.data()

    def fail(context):
        if context[0] == 1:
            raise ZeroDivisionError("planted")

    for partition in PARTITIONS:
        expected = runs.trained(runs.executor(backend, partition=partition, workers=2), given)[1]
        made = runs.executor(backend, partition=partition, workers=2)
        start = time.perf_counter()
        with Recorded(backend, fail):
            try:
                runs.trained(made, given)
            except ZeroDivisionError as error:
                assert str(error) == "planted"
            else:
                raise AssertionError("the planted failure was lost")
        assert time.perf_counter() - start < PROMPT
        runs.assert_same(runs.trained(runs.executor(backend, partition=partition, workers=2), given)[1], expected)


def failure_along():
    """The same where the calling thread is worker 0, whichever of the two fails."""
    backend, dtype = fm.get_backend("cpu"), np.dtype("float32")
    backend.launch("meet", dtype, 2, 5)
    for failing in (0, 1):

        def fail(context, failing=failing):
            if context[0] == failing:
                raise ZeroDivisionError("planted")

        start = time.perf_counter()
        with Recorded(backend, fail):
            try:
                backend.launch("meet", dtype, 2, 5)
            except ZeroDivisionError as error:
                assert str(error) == "planted"
            else:
                raise AssertionError("the planted failure was lost")
        assert time.perf_counter() - start < PROMPT
        entered = []
        with Recorded(backend, entered.append):
            backend.launch("meet", dtype, 2, 5)
        assert len(entered) == 2


def request():
    """A stop that is asked for at an arbitrary moment of a call: every worker returns the same step, and the
    parameters are those after so many steps."""
    from fusedmlp.backends.cpu import meeting

    backend, given = fm.get_backend("cpu"), runs.data(rows=400_000)
    backend.entry("run", np.dtype("float32"))
    for partition, workers in product(PARTITIONS, (1, 2, 3)):
        inside = threading.Event()
        sync = []

        def enter(context, sync=sync, inside=inside):
            sync[:] = [context.members[2]]
            inside.set()

        def ask(sync=sync, inside=inside):
            inside.wait()
            time.sleep(0.02)
            sync[0][meeting.REQUEST] = ASKED

        made = in_one_call(runs.executor(backend, partition=partition, workers=workers))
        asker = threading.Thread(target=ask)
        asker.start()
        with Recorded(backend, enter) as recorded:
            step = steps_done(made, given)
        asker.join()
        assert recorded.results == [step] * workers, recorded.results
        assert 0 < step < len(given.x) // 8, step
        again = in_one_call(runs.executor(backend, partition=partition, workers=workers))
        runs.assert_same(made.read(), runs.trained(again, given, steps=step)[1])


def steps_done(made, given):
    """The steps of an epoch that were done before somebody stopped it."""
    done = 0
    with suppress(NonFinite):
        for losses in runs.epoch(made, given):
            done += len(losses)
    return done


def requested_by_a_word(workers):
    """On the python backend's words: worker 1 (or 0, alone) asks for a stop at its n-th instruction, wherever that is
    in a step."""
    workers, given = int(workers), runs.data(rows=50)

    def asking(schedule, at):
        counter = itertools.count()

        def worker(c):
            if c.number == workers - 1 and next(counter) == at:
                turns.request_stop(c, ASKED, 0)
            return turns.worker(c)

        return turns.TurnsBackend(schedule, worker=worker)

    for at, schedule in product((0, 1, 7, 30, 31, 32, 45), (turns.forwards, turns.backwards, turns.mixed(4))):
        made = in_one_call(runs.executor(asking(schedule, at), workers=workers, partition=("out", "in", "rows")))
        step = steps_done(made, given)
        assert step < 7
        again = runs.executor(turns.TurnsBackend(turns.forwards), workers=workers, partition=("out", "in", "rows"))
        runs.assert_same(made.read(), runs.trained(again, given, steps=step)[1])


def nan(name):
    """A row of NaN in step k: the parameters are those after k steps, to the bit, and the workers are all out."""
    backend = fm.get_backend(name)
    counts = (1, 2, 3) if name == "cpu" else (1,)
    for partition, workers, k in product(PARTITIONS, counts, (0, 3, 6)):
        given = runs.data(rows=53)
        given.x[8 * k + 4 if k < 6 else 52] = np.nan
        made = runs.executor(backend, partition=partition, workers=workers)
        start = time.perf_counter()
        step = runs.stopped_at(made, given)
        assert time.perf_counter() - start < PROMPT
        assert step == k, (partition, workers, k, step)
        again = runs.executor(backend, partition=partition, workers=workers)
        runs.assert_same(made.read(), runs.trained(again, given, steps=k)[1])
        # The optimizer's state is that after k steps as well: it goes on as the other does.
        rest = runs.data(rows=20, seed=5)
        runs.assert_same(runs.trained(made, rest)[1], runs.trained(again, rest)[1])


def ctrl_c(name, workers):
    """Ctrl-C in the middle of an epoch that is one call: all workers leave after the same step, within a second."""
    workers, backend = int(workers), fm.get_backend(name)
    given = runs.data(rows=4_000_000 if name == "cpu" else 40_000)
    for partition in ("out", "in") if workers > 1 else ("out",):
        optimizer, sent, done = optimizers.Adam(lr=0.001), [], 0
        made = runs.executor(backend, partition=partition, workers=workers)

        def interrupt(sent=sent):
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        list(runs.epoch(made, given, optimizer=optimizer, steps=3))  # compiled, and timed
        timer = threading.Timer(0.5, interrupt)
        timer.start()
        try:
            for losses in runs.epoch(in_one_call(made), given, optimizer=optimizer):
                done += len(losses)
                assert done < len(given.x) // 8, "the epoch ended before it could be interrupted"
        except KeyboardInterrupt:
            assert time.perf_counter() - sent[0] < PROMPT
        else:
            raise AssertionError("Ctrl-C was lost")
        assert done > 0
        again, optimizer = runs.executor(backend, partition=partition, workers=workers), optimizers.Adam(lr=0.001)
        list(runs.epoch(again, given, optimizer=optimizer, steps=3))
        list(runs.epoch(again, given, optimizer=optimizer, steps=done))
        runs.assert_same(made.read(), again.read())


def ctrl_c_brief(workers):
    """Ctrl-C in epochs that are over so soon that the calling thread is worker 0: it comes out when the steps are done,
    which count; and what runs next on that thread is not stopped."""
    workers, backend, given = int(workers), fm.get_backend("cpu"), runs.data(rows=40_000)
    backend.warm_up(np.dtype("float32"))
    made = runs.executor(backend, partition="in", workers=workers)
    again = runs.executor(backend, partition="in", workers=workers)
    optimizer, other = optimizers.Adam(lr=0.001), optimizers.Adam(lr=0.001)
    for executor, adam in ((made, optimizer), (again, other)):
        list(runs.epoch(executor, given, optimizer=adam, steps=3))
    for tenth in range(10):
        brief, found, before = [], backend.run_interruptible, made.steps_taken(optimizer)

        def recorded(call, meanwhile, finished, brief=brief, found=found):
            brief.append(call.brief)
            return found(call, meanwhile, finished)

        backend.run_interruptible = recorded
        sent = []

        def interrupt(sent=sent):
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.05 + 0.003 * tenth, interrupt)
        timer.start()
        try:
            for _ in range(1000):
                list(runs.epoch(made, given, optimizer=optimizer, steps=200))
        except KeyboardInterrupt:
            assert time.perf_counter() - sent[0] < PROMPT
        else:
            raise AssertionError("Ctrl-C was lost")
        finally:
            del backend.run_interruptible
        assert brief[-1], "the calls are not short"
        whole, rest = divmod(made.steps_taken(optimizer) - before, 200)
        for steps in [200] * whole + [rest] * (rest > 0):
            list(runs.epoch(again, given, optimizer=other, steps=steps))
        runs.assert_same(made.read(), again.read())
        np.testing.assert_array_equal(made.predict(given.x), again.predict(given.x))


class Interrupt:
    """Raises KeyboardInterrupt in the calling thread where Python would: after the n-th call or backward jump within
    the gang's file. (The interpreter looks for signals there and nowhere else.)"""

    AFTER = ("CALL", "JUMP_BACKWARD", "RESUME")

    def __init__(self, n):
        self.n, self.count, self.where = n, 0, None

    def __enter__(self):
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exception):
        sys.settrace(None)

    def _trace(self, frame, event, argument):
        if frame.f_code.co_filename != gang.__file__:
            return None
        frame.f_trace_opcodes, before = True, [-1]
        names = {i.offset: i.opname for i in dis.get_instructions(frame.f_code)}

        def local(frame, event, argument):
            if event == "opcode":
                if names.get(before[0], "").startswith(self.AFTER):
                    self.count += 1
                    if self.count == self.n:
                        self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                        print(self.n, self.where, flush=True)
                        raise KeyboardInterrupt
                before[0] = frame.f_lasti
            return local

        return local


def interrupted(n, call, *arguments):
    """A call with Ctrl-C at its n-th point: (where that was, what it returned, what it raised); what it raised stands
    also where `Gang.run` returns what reached the caller."""
    with Interrupt(n) as planted:
        try:
            return planted, call(*arguments), None
        except KeyboardInterrupt as error:
            return planted, (None, error), error


def ctrl_c_anywhere():
    """Ctrl-C at every point of the hand-over: the call ends, with all workers out, and the next one runs. Where it was
    noticed, the workers were told; where it comes before they began, nothing was run."""
    crews = []  # kept, or one that is collected within the next call would take the exception that is planted there
    for n in itertools.count(1):
        crews.append(gang.Gang(2))
        crew, state, finished = crews[-1], {"arrived": 0, "stop": False, "inside": 0}, []

        def work(number, state=state, finished=finished):
            state["inside"] += 1
            state["arrived"] += 1
            while state["arrived"] < 2:  # the barrier
                time.sleep(0.0005)
            until = time.perf_counter() + 0.02
            while not state["stop"] and time.perf_counter() < until:
                time.sleep(0.0005)
            state["inside"] -= 1
            finished.append(number)
            return number

        def interrupt(state=state):
            state["stop"] = True

        planted, (_, reached), _ = interrupted(n, crew.run, work, (0, 1), (), interrupt, lambda: None)
        assert state["inside"] == 0, f"{planted.where}: workers were still inside when the call came back"
        assert sorted(finished) in ([], [0, 1]), finished
        if planted.where is None:
            assert n > 10
            return
        assert reached is not None, planted.where
        state.update(arrived=0, stop=False)
        finished.clear()
        assert crew.run(work, (0, 1), (), interrupt, lambda: None) == (0, None)
        assert sorted(finished) == [0, 1]


def ctrl_c_along():
    """The same where the calling thread is worker 0: it raises when the other is out, and keeps it waiting nowhere."""
    crews = []
    for n in itertools.count(1):
        crews.append(gang.Gang(2))
        crew, finished, results = crews[-1], [], []
        state = {"arrived": 0, "abandoned": False, "inside": 0, "left": 0}

        def work(number, state=state, finished=finished):
            state["inside"] += 1
            state["arrived"] += 1
            while state["arrived"] < 2 and not state["abandoned"]:  # the barrier
                time.sleep(0.0005)
            state["inside"] -= 1
            finished.append(number)
            if number == 1:
                state["left"] += 1
                time.sleep(0.002)  # it listens
            while number == 0 and not state["left"] and not state["abandoned"]:
                time.sleep(0.0005)
            return number

        def abandon(state=state):
            state["abandoned"] = True

        given = work, (0, 1), (), abandon, lambda state=state: state["left"] == 1, results
        planted, (_, reached), _ = interrupted(n, crew.run_along, *given)
        assert state["inside"] == 0, f"{planted.where}: a worker was still inside when the call came back"
        if planted.where is None:
            assert n > 10 and sorted(finished) == [0, 1]
            return
        assert reached is not None, planted.where
        assert results == ([0] if 0 in finished else []), f"{planted.where}: what was finished must be known"
        state.update(arrived=0, abandoned=False, left=0)
        finished.clear()
        assert crew.run_along(work, (0, 1), (), abandon) == (0, None)
        assert sorted(finished) == [0, 1]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
