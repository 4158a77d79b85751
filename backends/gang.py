"""Gangs: threads that run one call together."""

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Memory

BELL = 8  # numbers from the beginning of a line of cache on, so that no other word shares it with the first


class Gangs:
    """The gangs of this process: for several workers one that all share, a call at a time; for one worker each calling
    thread has its own, so that a serial call never waits for another. A forked child starts with none."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[int, Gang] = {}
        self._own = threading.local()

    def __call__(self, workers: int) -> "Gang":
        if workers == 1:
            own = getattr(self._own, "gang", None)
            if own is None:
                own = self._own.gang = Gang(1)
            return own
        with self._lock:
            if workers not in self._shared:
                self._shared[workers] = Gang(workers)
            return self._shared[workers]


class Gang:
    """T workers that run one call together. In `run` all are threads of the gang, and the one that calls waits, so that
    an exception that reaches it (Ctrl-C) can ask the workers to stop, and see them all out before it goes on. In
    `run_along` it is worker 0: one thread less has to be woken, and an exception reaches it when its part is done. Both
    give what worker 0 returned, and beside it the exception that reached the caller meanwhile.

    To wake a sleeping thread takes some 0.1 ms. So a worker that has done its part of a call of `run_along` may stay in
    the function for a while and listen to the gang's `bell`, which the next call rings: it is awake then. The function
    needs nothing of Python's meanwhile, and the caller need not wait until it has left; until then the worker's thread
    holds the arguments.

    bell  int64 array whose first number goes up with each call
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.bell = Memory().aligned(BELL, np.dtype(np.int64))
        self.bell[:] = 0
        self._lock = threading.Lock()  # hands out all the threads, or none
        self._inboxes: list[_Inbox] = []
        weakref.finalize(self, _dismiss, self._inboxes)

    def run(
        self,
        function: Callable[..., Any],
        contexts: Sequence[Any],
        arguments: tuple[Any, ...],
        interrupt: Callable[[], None],
        abandon: Callable[[], None],
        results: list[Any] | None = None,
    ) -> tuple[Any, BaseException | None]:
        """function(contexts[k], *arguments) on thread k. Returns what worker 0 returned, and the exception that
        reached the caller meanwhile, or None.

        interrupt  is called at such an exception, and must make the workers leave together
        abandon    is called where a worker failed, and must release the others from their barriers; its exception is
                   raised here when all are out
        results    gets what worker 0 returned, before anything else is done: it is there although an exception comes
                   on the way out of here
        """
        job = _Job(function, arguments, abandon)
        calls = [_Call(job, context) for context in contexts]
        if results is not None:
            calls[0].results = results

        def ring() -> None:
            self.bell[0] += 1

        reached = self._together(job, calls, ring, interrupt)
        return calls[0].results[0], reached

    def run_along(
        self,
        function: Callable[..., Any],
        contexts: Sequence[Any],
        arguments: tuple[Any, ...],
        abandon: Callable[[], None],
        seen_out: Callable[[], bool] = lambda: False,
        results: list[Any] | None = None,
    ) -> tuple[Any, BaseException | None]:
        """What function(contexts[0], *arguments) returned on this thread, when it has run with the other contexts on
        others, and the exception that reached this thread meanwhile, or None. One that came too early for a result is
        raised, when all are out. `abandon` and `results` as in `run`.

        seen_out  tells afterwards whether the others had done their part before the function returned here. Such a
                  function rings the bell first; if it did not, those that listen would begin when they stop
        """
        job = _Job(function, arguments, abandon)
        own, *others = (_Call(job, context) for context in contexts)
        if results is not None:
            own.results = results

        def interrupt() -> None:
            if not own.done.is_set():  # the others may be waiting for it at a barrier
                abandon()

        reached = self._together(job, others, own.perform, interrupt, seen_out) or own.error
        if reached is not None and not own.results:
            raise reached
        return own.results[0], reached

    def _together(
        self,
        job: "_Job",
        calls: "list[_Call]",
        own: Callable[[], None],
        interrupt: Callable[[], None],
        seen_out: Callable[[], bool] = lambda: False,
    ) -> BaseException | None:
        """Hands out the calls of a job, does `own` beside them, and sees them all out. Gives the exception that reached
        this thread meanwhile, or raises it where it came before all had their part, and nothing was run."""
        with self._lock:
            while len(self._inboxes) < len(calls):
                self._inboxes.append(_Inbox(len(self._inboxes)))
            reached: BaseException | None = None
            # An exception may come between any two lines. Until all have their part, it calls the job off; from then
            # on everything but `own` may be done twice, so it is simply begun again.
            try:
                for inbox, call in zip(self._inboxes, calls, strict=False):
                    inbox.put(call)
                job.on = True
                job.decided.set()
                own()
            except BaseException as error:
                reached = error
            while True:
                try:
                    job.decided.set()
                    if not job.on:
                        break
                    if reached is not None:
                        interrupt()
                    if seen_out():
                        return reached
                    for call in calls:
                        call.done.wait()
                    break
                except BaseException as error:
                    reached = reached or error
        if reached is not None and not job.on:
            raise reached
        for call in calls:
            if call.error is not None:
                raise call.error
        return reached


def _dismiss(inboxes: "list[_Inbox]") -> None:
    """Ends the threads of a gang that nobody can call any more."""
    for inbox in inboxes:
        inbox.put(None)


class _Job:
    """One call of a gang. Nobody begins before it is decided whether it is on: all take part, or none."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], abandon: Callable[[], None]) -> None:
        self.function, self.arguments, self.abandon = function, arguments, abandon
        self.on = False
        self.decided = threading.Event()


class _Call:
    """One worker's part of a job."""

    def __init__(self, job: _Job, context: Any) -> None:
        self.job, self.context = job, context
        self.results: list[Any] = []  # one, if it returned
        self.error: BaseException | None = None
        self.done = threading.Event()

    def perform(self) -> None:
        self.job.decided.wait()
        try:
            if self.job.on:
                # An exception that comes meanwhile (Ctrl-C) is raised as soon as a call out of Python ends, and what it
                # returned is lost. So this call is one that keeps the result before it ends.
                self.results.extend(starmap(self.job.function, ((self.context, *self.job.arguments),)))
        except BaseException as error:
            self.error = error
            self.job.abandon()
        finally:
            self.done.set()


class _Inbox:
    """A thread, and the calls that it is to perform."""

    def __init__(self, number: int) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self.put = self._calls.put
        thread = threading.Thread(target=_serve, args=(self._calls,), name=f"fusedmlp worker {number}", daemon=True)
        thread.start()


def _serve(calls: "queue.SimpleQueue[_Call | None]") -> None:
    while (call := calls.get()) is not None:
        call.perform()
        del call  # or it would keep the arrays of the last call alive
