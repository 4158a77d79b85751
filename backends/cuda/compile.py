"""The bodies compiled for CUDA: to kernels, or without a device to PTX."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic
from numba.cuda.np.numpy_support import from_dtype

from fusedmlp.backends import entries
from fusedmlp.backends.binder import Binder, entry_around
from fusedmlp.backends.cuda.words import DONE, MATHEMATICS, words_for
from fusedmlp.backends.views import constant_of, view_of, views

matrix, vector, block, row = views(intrinsic, types, cgutils)


SHARED = 3  # NVPTX's address space of shared memory


def _shared_array(length: int, scalar: Any) -> Any:
    """A word that gives one array of the block's shared memory. (Numba CUDA's own `shared.array` makes a symbol with
    external linkage, which is defined twice where two functions call the one that holds it.)"""

    @intrinsic
    def array(typing_context):
        made = types.Array(scalar, 1, "C")

        def generate(context, builder, signature, arguments):
            storage = ir.ArrayType(context.get_data_type(scalar), length)
            memory = ir.GlobalVariable(
                builder.module, storage, builder.module.get_unique_name("fusedmlp_shared"), addrspace=SHARED
            )
            memory.linkage, memory.align = "internal", 16
            memory.initializer = ir.Constant(storage, ir.Undefined)
            pointer = builder.addrspacecast(memory, ir.PointerType(storage), "generic")
            itemsize = context.get_constant(types.intp, scalar.bitwidth // 8)
            shape = (context.get_constant(types.intp, length),)
            return view_of(context, builder, types, made, pointer, shape, (itemsize,))

        return made(), generate

    return array


@cuda.jit(device=True, inline="always")
def home(c, buffer, at, rows, columns):
    return matrix(buffer, at, rows, columns)


VIEWS = {"matrix": matrix, "vector": vector, "block": block, "row": row, "home": home}


@cache
def binder(dtype: np.dtype) -> Binder:
    """The binder for device functions of one compute dtype."""

    def shared(length: int) -> Any:
        return _shared_array(length, from_dtype(dtype))

    words = words_for(dtype.type, VIEWS | MATHEMATICS | {"const": constant_of(intrinsic, types)}, _device, shared)
    return Binder(words, _device, Path(__file__).parent)


def _device(function: Callable[..., Any], thin: bool) -> Any:
    return cuda.jit(device=True, inline="always" if thin else "never")(function)


@cuda.jit(device=True, inline="always")
def finish(c, steps):
    """The first block tells how many steps were finished."""
    if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        c[DONE] = steps


def entered(name: str, body: Callable[..., Any]) -> Any:
    """A kernel's function around a body, by the names `body` and `finish`."""
    return entry_around(body, after="finish(c, result); return" if name == "run" else "return")


def source(name: str, dtype: np.dtype) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of an entry (backends/entries.py) as a function, and the types of its arguments."""
    bound, body = binder(dtype), entries.body(name)
    function = bound.wrap(
        entered(name, body), f"{name}.{dtype}", __name__=__name__, body=bound.bind(body), finish=finish
    )
    return function, (types.Array(types.int64, 1, "C"), *entries.signature(name, from_dtype(dtype), types))


def kernel(name: str, dtype: np.dtype) -> Any:
    """The kernel of an entry, compiled for the device that there is."""
    function, taken = source(name, dtype)
    return cuda.jit(types.void(*taken), cache=True)(function)


class _Device:
    """As much of a device as the compiler asks for."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.compute_capability = capability


def ptx(name: str, dtype: np.dtype, capability: tuple[int, int]) -> str:
    """The PTX of an entry's kernel, made without a device."""
    function, taken = source(name, dtype)
    with patch("numba.cuda.dispatcher.get_current_device", lambda: _Device(capability)):
        code, _ = cuda.compile_ptx(function, taken, cc=capability)
    return code
