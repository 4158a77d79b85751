"""The python backend with several virtual workers, of which one runs at a time, as a test's schedule picks them.

A worker gives way at every barrier, and at the start of every instruction, where it asks for its number. If the
program's barriers suffice, the schedule changes nothing, down to the bit; where a worker meets what another one wrote
since the last barrier, some schedule shows it.
"""

import threading
from pathlib import Path

import numpy as np

import fusedmlp.backends.python.backend as python_backend
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.binder import Binder
from fusedmlp.backends.python.words import WORDS, Context
from fusedmlp.kernels import interpreter, single


class Turn(Context):
    """One virtual worker."""

    def __init__(self, number, party, dtype):
        super().__init__(dtype)
        self.number, self.party, self.go = number, party, threading.Semaphore(0)
        self.homes = {}
        self.at_barrier, self.ended, self.error, self.result = False, False, None, None


class Party:
    """Runs a body with several workers. `schedule(segment, ready)` picks the next from the numbers of those that are
    not waiting at the segment's end, the one that ran last in front if it still may."""

    def __init__(self, size, dtype, schedule):
        self.request = self.published = self.segments = 0
        self._back, self._schedule = threading.Semaphore(0), schedule
        self.turns = [Turn(number, self, dtype) for number in range(size)]

    def run(self, function, arguments):
        for turn in self.turns:
            threading.Thread(target=self._work, args=(turn, function, arguments), daemon=True).start()
        while not all(turn.ended for turn in self.turns):
            ready = list(range(len(self.turns)))
            while ready:
                turn = self.turns[self._schedule(self.segments, ready)]
                turn.go.release()
                self._back.acquire()
                if turn.error is not None:
                    raise turn.error
                ready.remove(turn.number)
                if not (turn.ended or turn.at_barrier):
                    ready.insert(0, turn.number)
            ended = [turn.ended for turn in self.turns]
            assert all(ended) or not any(ended), f"some workers wait at a barrier that others never reach: {ended}"
            self.published = self.request
            self.segments += 1
            for turn in self.turns:
                turn.at_barrier = False
        return self.turns[0].result

    def _work(self, turn, function, arguments):
        turn.go.acquire()
        try:
            with np.errstate(all="ignore"):
                turn.result = function(turn, *arguments)
        except BaseException as error:
            turn.error = error
        turn.ended = True
        self._back.release()

    def give_way(self, turn):
        self._back.release()
        turn.go.acquire()


def worker(c):
    c.party.give_way(c)
    return c.number


def barrier(c):
    c.at_barrier = True
    c.party.give_way(c)
    return True


def request_stop(c, reason, step):
    c.party.request = reason


def move_in(c, buffer, at, columns, first_row, last_row, first_column, last_column):
    """Into a copy in which all but this worker's part is spoiled."""
    rows = max(last_row, 1)
    whole = np.full((rows, columns), np.nan, buffer.dtype)
    part = slice(first_row, last_row), slice(first_column, last_column)
    whole[part] = buffer[at : at + rows * columns].reshape(rows, columns)[part]
    c.homes[at] = whole


def move_out(c, buffer, at, columns, first_row, last_row, first_column, last_column):
    whole = c.homes.pop(at)
    part = slice(first_row, last_row), slice(first_column, last_column)
    buffer[at : at + whole.size].reshape(whole.shape)[part] = whole[part]


def home(c, buffer, at, rows, columns):
    """Rows beyond this worker's part are there to be sliced, and NaN."""
    if at not in c.homes:
        return WORDS["matrix"](buffer, at, rows, columns)
    mine = c.homes[at]
    if len(mine) < rows:
        mine = c.homes[at] = np.concatenate([mine, np.full((rows - len(mine), columns), np.nan, mine.dtype)])
    return mine


WORDS_IN_TURNS = WORDS | {
    "worker": worker,
    "workers": lambda c: len(c.party.turns),
    "barrier": barrier,
    "request_stop": request_stop,
    "stopped": lambda c: c.party.published,
}
# Each worker's own weights in memory of its own.
AT_HOME = {"move_in": move_in, "move_out": move_out, "home": home}


class TurnsBackend(Backend):
    """Runs every call with as many virtual workers as it is asked for. `words` take the place of its own."""

    name = "turns"
    device = "cpu"
    panel = python_backend.PythonBackend.panel

    def __init__(self, schedule, **words):
        super().__init__()
        folder = Path(python_backend.__file__).parent
        self._binder = Binder(WORDS_IN_TURNS | words, lambda function, thin: function, folder)
        self.schedule, self.workers = schedule, 1

    def workers_for(self, flops):
        return self.workers

    def launch(self, body, dtype, workers, *arguments):
        function = interpreter.run if body == "run" else getattr(single, body)
        return Party(workers, dtype, self.schedule).run(self._binder.bind(function), arguments)

    def launch_interruptible(self, body, dtype, workers, *arguments):
        return self.launch(body, dtype, workers, *arguments), None


def forwards(segment, ready):
    """Each worker up to the barrier, in the order of their numbers."""
    return min(ready)


def backwards(segment, ready):
    return max(ready)


def alternating(segment, ready):
    return min(ready) if segment % 2 else max(ready)


def mixed(seed):
    """A worker drawn at every instruction."""
    rng = np.random.default_rng(seed)
    return lambda segment, ready: int(rng.choice(ready))


def schedules():
    """Those to hold against `forwards`."""
    return backwards, alternating, mixed(1), mixed(2), mixed(3)
