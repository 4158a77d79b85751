"""A stand-in for a CUDA device: NumPy's memory, and one block of a few threads on Numba's CUDA simulator.

It shows that the bodies are right as SIMT programs, with lanes that share tiles, sums and scratch, and that what lies
above the driver's door is right. It needs NUMBA_ENABLE_CUDASIM=1 before Numba is first imported.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numba import config, cuda

import fusedmlp.backends.cuda
from fusedmlp.backends import entries
from fusedmlp.backends.arrays import Memory
from fusedmlp.backends.binder import Binder
from fusedmlp.backends.cuda.backend import CudaBackend
from fusedmlp.backends.cuda.words import simulated, words_for
from fusedmlp.backends.python.words import WORDS as PLAIN

TILE = 4  # so that small shapes span two tiles
THREADS = (2, 2)

# What a lane does by itself is plain Python.
ALONE = (
    *("const", "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "finite", "double"),
    *("matrix", "vector", "block", "row", "home"),
)


class StandIn:
    """As backends/cuda/driver.py's Driver."""

    name, multiprocessors = "the simulator", 1  # a barrier of several blocks would be silently wrong there

    def __init__(self):
        assert config.ENABLE_CUDASIM, "set NUMBA_ENABLE_CUDASIM=1 before Numba is imported"
        self.memory = Memory()

    @cache  # noqa: B019  one driver a process
    def kernel(self, body, dtype):
        def shared(length):
            array = np.empty(length, dtype)  # one block runs at a time
            return lambda: array

        views = {name: PLAIN[name] for name in ALONE}
        words = words_for(dtype.type, views, lambda word, thin: word, shared, TILE, THREADS[0] * THREADS[1])
        folder = Path(fusedmlp.backends.cuda.__file__).parent
        return Binder(words, lambda function, thin: function, folder).bind(entries.body(body))

    def most_blocks(self, body, dtype, threads):
        return 1

    def launch(self, body, dtype, blocks, threads, arguments):
        assert blocks == 1, "the simulator's grid has one block"
        with np.errstate(all="ignore"):
            cuda.jit(simulated)[blocks, threads](self.kernel(body, dtype), arguments)


class SimulatedBackend(CudaBackend):
    threads_of_a_block = THREADS
    tile = TILE
    panel = 8 << 10

    def __init__(self):
        super().__init__(StandIn())


@cache
def get_simulator():
    return SimulatedBackend()
