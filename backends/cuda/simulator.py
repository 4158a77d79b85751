"""A bare launch on Numba's CUDA simulator: one block of a few threads, on the processor, uncompiled.

It shows that the bodies are right as SIMT programs, with lanes that share tiles, sums and scratch. It needs
NUMBA_ENABLE_CUDASIM=1 before Numba is first imported, and it is no backend that `available_backends` lists.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import config, cuda

from fusedmlp.backends import entries
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.binder import Binder
from fusedmlp.backends.cuda.words import simulated, words_for
from fusedmlp.backends.errors import BackendUnavailable
from fusedmlp.backends.python.words import WORDS as PLAIN

TILE = 4  # so that small shapes span two tiles
THREADS = (2, 2)

# What a lane does by itself is plain Python.
ALONE = (
    *("const", "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "finite", "double"),
    *("matrix", "vector", "block", "row", "home"),
)


class Simulator(Backend):
    name = "simulator"
    device = "cpu"
    panel = 8 << 10

    def __init__(self) -> None:
        if not config.ENABLE_CUDASIM:
            raise BackendUnavailable("the CUDA simulator needs NUMBA_ENABLE_CUDASIM=1 set before Numba is imported")
        super().__init__()

    @cache  # noqa: B019  one simulator a process
    def _binder(self, dtype: np.dtype) -> Binder:
        def shared(length: int) -> Any:
            array = np.empty(length, dtype)  # one block runs at a time
            return lambda: array

        views = {name: PLAIN[name] for name in ALONE}
        words = words_for(dtype.type, views, lambda word, thin: word, shared, TILE, THREADS[0] * THREADS[1])
        return Binder(words, lambda function, thin: function, Path(__file__).parent)

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> Any:
        bound = self._binder(dtype).bind(entries.body(body))
        with np.errstate(all="ignore"):
            cuda.jit(simulated)[1, THREADS](bound, arguments)
        return 0
