"""Whose turn it is to use a model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fusedmlp.backends.arrays import Memory


class Turn:
    """One call of a model at a time: the buffer is laid out for it. A context manager, within which a call is.

    A call that comes in between, of another thread or of a signal's handler, is a RuntimeError; one of a callback,
    between two epochs, is not. On a device, work that another stream still has to do for the last call comes first.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._last = memory.moment()  # when the last call's work is done
        self._lock = threading.Lock()
        self._lent_to: int | None = None  # the thread whose callbacks may use the model within its call
        self._depth = 0  # calls within one another, by such callbacks

    def __enter__(self) -> None:
        if not self._lock.acquire(False) and self._lent_to != threading.get_ident():
            raise RuntimeError("this model is in a call already: wait for its end, or use a model for each thread")
        self._lent_to = None
        self._depth += 1
        if self._last is None:
            return
        try:
            self._memory.wait_for(self._last)
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *error: Any) -> None:
        try:
            self._last = self._memory.moment()
        finally:
            self._leave()

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth:
            self._lent_to = threading.get_ident()
        else:
            self._lock.release()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Within a call: this thread's callbacks may use the model, on a stream of their own if they like."""
        self._last = self._memory.moment()
        self._lent_to = threading.get_ident()
        try:
            yield
        finally:
            self._lent_to = None
            self._memory.wait_for(self._last)
