"""The bodies compiled for CUDA to PTX, which needs no device: the proof that what kernels/ says fits a GPU."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from fusedmlp.backends.binder import Binder, entry_around
from fusedmlp.backends.cuda.words import MATHEMATICS, words_for
from fusedmlp.backends.views import constant_of, views

matrix, vector, block, row = views(intrinsic, types, cgutils)


@cuda.jit(device=True)
def home(c, buffer, at, rows, columns):
    return matrix(buffer, at, rows, columns)


VIEWS = {"matrix": matrix, "vector": vector, "block": block, "row": row, "home": home}
SCALARS = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}


@cache
def binder(dtype: np.dtype) -> Binder:
    """The binder for device functions of one compute dtype."""
    words = words_for(SCALARS[dtype], VIEWS | MATHEMATICS | {"const": constant_of(intrinsic, types)}, _device)
    return Binder(words, lambda function, thin: _device(function), Path(__file__).parent)


def _device(function: Callable[..., Any]) -> Any:
    return cuda.jit(device=True)(function)


class _Device:
    """As much of a device as the compiler asks for."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.compute_capability = capability


def ptx(body: Callable[..., Any], dtype: np.dtype, signature: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """The PTX of a kernel that runs `body` for a signature of Numba CUDA's types, the context being an integer."""
    kernel = binder(dtype).wrap(
        entry_around(body), str(dtype), __name__=__name__, body=binder(dtype).bind(body)
    )
    with patch("numba.cuda.dispatcher.get_current_device", lambda: _Device(capability)):
        code, _ = cuda.compile_ptx(kernel, (types.int64, *signature), cc=capability)
    return code
