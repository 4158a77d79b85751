"""As much of CuPy as tests/cuda/test_products.py asks for, on NumPy: what is captured runs at once, and a replay does
nothing."""

from types import SimpleNamespace

import numpy as np

ALIGNED = 512  # bytes, as CuPy's pool


class Array(np.ndarray):
    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


def empty(shape, dtype="float64"):
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(nbytes + ALIGNED, np.uint8)
    start = -raw.ctypes.data % ALIGNED
    return raw[start : start + nbytes].view(dtype).reshape(shape).view(Array)


def asarray(array):
    made = empty(array.shape, array.dtype)
    made[...] = array
    return made


def zeros_like(array):
    return asarray(np.zeros(array.shape, array.dtype))


def asnumpy(array):
    return np.array(array)


class Stream:
    ptr, capturing = 0, False

    def __init__(self, non_blocking=False):
        assert non_blocking

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert not self.capturing

    def synchronize(self):
        assert not self.capturing

    def begin_capture(self):
        self.capturing = True

    def end_capture(self):
        self.capturing = False
        return SimpleNamespace(launch=lambda stream: None)


cuda = SimpleNamespace(Stream=Stream)
