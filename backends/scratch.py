"""Scratch that is kept from call to call, so that a call allocates its results and nothing else."""

import threading
import weakref

import numpy as np


class Scratch:
    """Arrays by name and dtype, each thread its own, grown to the largest that was asked for. Those of a thread that
    ended are freed."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self.nbytes = 0

    def __call__(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
        """A one-dimensional array of `length` elements, aligned to 64 bytes, not cleared."""
        held = getattr(self._local, "arrays", None)
        if held is None:
            held = self._local.arrays = _Held()
            weakref.finalize(held, self._count, held.sizes, -1)
        key = (name, dtype)
        array = held.get(key)
        if array is None or len(array) < length:
            with self._lock:
                self.nbytes += length * dtype.itemsize - held.sizes.get(key, 0)
                held.sizes[key] = length * dtype.itemsize
            array = held[key] = aligned(length, dtype)
        return array[:length]

    def _count(self, sizes: dict, sign: int) -> None:
        with self._lock:
            self.nbytes += sign * sum(sizes.values())


class _Held(dict):
    """One thread's arrays, and how many bytes each takes: what is left to count when the thread is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict = {}


def aligned(length: int, dtype: np.dtype, alignment: int = 64) -> np.ndarray:
    """A one-dimensional array whose first element lies on a multiple of `alignment` bytes; not cleared."""
    raw = np.empty(length * dtype.itemsize + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + length * dtype.itemsize].view(dtype)
