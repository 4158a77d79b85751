"""Scratch that is kept from call to call, so that a call allocates its results and nothing else."""

import threading
import weakref
from collections import OrderedDict

import numpy as np

from fusedmlp.backends.arrays import Array, Memory

QUEUES = 8  # of a thread, whose scratch is kept: those that were used last


class Scratch:
    """Arrays by name and dtype, each thread and each queue of work its own, grown to the largest that was asked for.
    Those of a thread that ended are freed. There is no lock that a forked child could inherit taken.

    A device's pool gives memory out again in the order of the queue that it was made on, so work that is under way
    may still use an array that is freed here."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._everywhere: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._local = _OfThread(self._everywhere)

    def __call__(self, name: str, dtype: np.dtype, length: int) -> Array:
        """A one-dimensional array of `length` elements, aligned to 64 bytes, not cleared."""
        held, queue = self._local.held, self._memory.queue()
        last, arrays = held.last
        if queue != last:
            arrays = held.of(queue)
        array = arrays.get((name, dtype))
        if array is None or len(array) < length:
            array = arrays[name, dtype] = self._memory.aligned(length, dtype)
        return array if len(array) == length else array[:length]

    @property
    def nbytes(self) -> int:
        """Bytes held by all threads together."""
        return sum(array.nbytes for held in list(self._everywhere) for array in held.everything())


class _OfThread(threading.local):
    def __init__(self, everywhere: "weakref.WeakSet[_Held]") -> None:
        self.held = _Held()
        everywhere.add(self.held)


class _Held:
    """One thread's arrays, by queue."""

    def __init__(self) -> None:
        self._queues: OrderedDict[int, dict[tuple[str, np.dtype], Array]] = OrderedDict()
        self.last: tuple[int | None, dict[tuple[str, np.dtype], Array]] = None, {}  # the last queue and its arrays

    def of(self, queue: int) -> dict[tuple[str, np.dtype], Array]:
        arrays = self._queues.setdefault(queue, {})
        self._queues.move_to_end(queue)
        if len(self._queues) > QUEUES:
            self._queues.popitem(last=False)
        self.last = queue, arrays
        return arrays

    def everything(self) -> list[Array]:
        return [array for arrays in list(self._queues.values()) for array in list(arrays.values())]
