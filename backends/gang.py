"""A gang of threads that run one call together."""

import threading
from collections.abc import Callable, Sequence
from typing import Any


class Gang:
    """T threads that run one call together. The thread that calls is no worker: it waits, so that an exception that
    reaches it (Ctrl-C) can ask the workers to stop, and see them all out before it goes on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()  # hands out all the threads, or none
        self._inboxes: list[_Inbox] = []

    def run(
        self,
        function: Callable[..., Any],
        contexts: Sequence[Any],
        arguments: tuple[Any, ...],
        interrupt: Callable[[], None],
        abandon: Callable[[], None],
    ) -> tuple[Any, BaseException | None]:
        """function(contexts[k], *arguments) on thread k. Returns what worker 0 returned, and the exception that
        reached the caller meanwhile, or None.

        interrupt  is called at such an exception, and must make the workers leave together
        abandon    is called where a worker failed, and must release the others from their barriers; its exception is
                   raised here when all are out
        """
        with self._lock:
            while len(self._inboxes) < self.size:
                self._inboxes.append(_Inbox(len(self._inboxes)))
            calls = [_Call(function, context, arguments, abandon) for context in contexts]
            for inbox, call in zip(self._inboxes, calls, strict=False):
                inbox.put(call)
            reached: BaseException | None = None
            for call in calls:
                while True:
                    try:
                        call.done.acquire()
                        break
                    except BaseException as error:  # once it is known, the workers are on their way out: wait on
                        reached = reached or error
                        interrupt()
        for call in calls:
            if call.error is not None:
                raise call.error
        return calls[0].result, reached


class _Call:
    """One worker's part of a call."""

    def __init__(
        self, function: Callable[..., Any], context: Any, arguments: tuple[Any, ...], abandon: Callable[[], None]
    ) -> None:
        self.function, self.context, self.arguments, self.abandon = function, context, arguments, abandon
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def perform(self) -> None:
        try:
            self.result = self.function(self.context, *self.arguments)
        except BaseException as error:
            self.error = error
            self.abandon()
        finally:
            self.done.release()


class _Inbox:
    """A thread, and the call that it is to perform next."""

    def __init__(self, number: int) -> None:
        self._ready = threading.Lock()
        self._ready.acquire()
        self._call: _Call | None = None
        threading.Thread(target=self._loop, name=f"fusedmlp worker {number}", daemon=True).start()

    def put(self, call: _Call) -> None:
        self._call = call
        self._ready.release()

    def _loop(self) -> None:
        while True:
            self._ready.acquire()
            call, self._call = self._call, None
            assert call is not None
            call.perform()
