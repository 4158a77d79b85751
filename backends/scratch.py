"""Scratch that is kept from call to call, so that a call allocates its results and nothing else."""

import threading
import weakref

import numpy as np

from fusedmlp.backends.arrays import Array, Memory


class Scratch:
    """Arrays by name and dtype, each thread and each queue of work its own, grown to the largest that was asked for.
    Those of a thread that ended are freed. There is no lock that a forked child could inherit taken."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._local = threading.local()
        self._everywhere: weakref.WeakSet[_Held] = weakref.WeakSet()

    def __call__(self, name: str, dtype: np.dtype, length: int) -> Array:
        """A one-dimensional array of `length` elements, aligned to 64 bytes, not cleared."""
        held = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = _Held()
            self._everywhere.add(held)
        key = name, dtype, self._memory.queue()
        array = held.arrays.get(key)
        if array is None or len(array) < length:
            array = held.arrays[key] = self._memory.aligned(length, dtype)
        return array[:length]

    @property
    def nbytes(self) -> int:
        """Bytes held by all threads together."""
        return sum(array.nbytes for held in list(self._everywhere) for array in list(held.arrays.values()))


class _Held:
    """One thread's arrays."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, np.dtype, int], Array] = {}
