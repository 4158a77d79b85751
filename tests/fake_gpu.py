"""A stand-in for benchmarks/explore/gpu.py's door: NumPy's arrays, and in NumPy what each kernel is there for.

Its times are this machine's and mean nothing.
"""

import ctypes
import time

import numpy as np
from scipy.special import erf

from fusedmlp.benchmarks.explore import kernels
from fusedmlp.benchmarks.explore.gpu import Gpu

# What each kernel leaves behind, on NumPy's arrays.


def fma(starts, rounds, factor, term, sums):
    chains = starts[:, None] + np.arange(kernels.FMA_CHAINS, dtype=np.float32)
    for _ in range(kernels.FMA_UNROLLED):  # one round is checked, more are only timed
        chains = chains * factor + term
    sums[:] = chains.sum(1)


def through_pointer(source, target, size):
    memory(target, size, np.float32)[:] = memory(source, size, np.float32) + 1


def exchange(rounds, state, members, slots, wrong):
    slots.reshape(2, -1)[(rounds - 1) % 2] = rounds - 1
    slots.reshape(2, -1)[rounds % 2] = rounds - 2


def values(function):
    def kernel(x, y):
        y[:] = function(x)

    return kernel


def many(function):
    def kernel(x, rounds, step, sums):
        terms = x.reshape(4, -1)
        sums[:] = sum(function(terms + np.float32(k * step)).sum(0) for k in range(min(rounds, 4)))

    return kernel


def nothing(*arguments):
    pass


def does(name):
    first, *rest = name.split()
    if first in ("values", "many"):
        return {"values": values, "many": many}[first]({"exp": np.exp, "tanh": np.tanh, "erf": erf}[rest[0]])
    found = {"bare": nothing, "nothing": nothing, "exchange": exchange, "fma": fma, "through_pointer": through_pointer}
    return found.get(first) or (lambda source, *others: others[-1].__setitem__(slice(None), source + np.float32(1)))


def memory(address, length, dtype):
    dtype = np.dtype(dtype)
    return np.frombuffer((ctypes.c_char * (length * dtype.itemsize)).from_address(address), dtype)


class StandIn(Gpu):
    """Gpu's door, with NumPy behind it; `idle` kernels do nothing."""

    def __init__(self, idle=False):
        self.idle, self.capturing = idle, False
        self.pointer, self.multiprocessors = 0, 20

    def array(self, value):
        return value.copy()

    def empty(self, length, dtype=np.float32):
        return np.empty(length, dtype)

    def fill(self, array, byte=0):
        array.view(np.uint8)[...] = byte

    def copy(self, target, source):
        target[...] = source

    def host(self, array):
        assert not self.capturing
        return array.copy()

    def address(self, array):
        return array.ctypes.data

    def numba_array(self, array):
        return array

    def configured(self, name, blocks, threads):
        takes = kernels.sources()[name].takes

        def run(*arguments):
            assert len(arguments) == len(takes)
            if not self.idle:
                does(name)(*arguments)

        return run

    def core(self, name, blocks, threads, **options):
        assert options.keys() <= {"cluster", "is_cooperative"}
        takes = kernels.sources()[name].takes

        def run(*flat):
            parts, arguments = iter(flat), []
            for taken in takes:
                if not isinstance(taken, kernels.types.Array):
                    arguments.append(next(parts))
                    continue
                owner, parent, size, itemsize, address, shape, stride = (next(parts) for _ in range(7))
                assert (owner, parent, shape, stride) == (0, 0, size, itemsize)
                arguments.append(memory(address, size, str(taken.dtype)))
            assert next(parts, None) is None
            if not self.idle:
                does(name)(*arguments)

        return run

    def synchronize(self):
        assert not self.capturing

    def capture(self, work):
        return work

    def elapsed(self, work):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
