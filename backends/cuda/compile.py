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
from fusedmlp.backends.cuda.kinds import Kind
from fusedmlp.backends.cuda.words import MATHEMATICS, Device, words_for
from fusedmlp.backends.views import constant_of, view_of, views

SHARED = 3  # NVPTX's address space of shared memory

matrix, vector, block, row = views(intrinsic, types, cgutils)


def _shared(name: str, length: int, dtype: Any) -> Any:
    """A word that gives the block's array of that name in shared memory, the same one wherever it is spoken in one
    kernel. (Numba CUDA's own `shared.array` makes a symbol with external linkage, which is defined twice where two
    functions call the one that holds it.)"""
    scalar = from_dtype(np.dtype(dtype))

    @intrinsic
    def array(typing_context):
        made = types.Array(scalar, 1, "C")

        def generate(context, builder, signature, arguments):
            storage = ir.ArrayType(context.get_data_type(scalar), length)
            symbol = f"fusedmlp_{name}"
            memory = builder.module.globals.get(symbol)
            if memory is None:
                memory = ir.GlobalVariable(builder.module, storage, symbol, addrspace=SHARED)
                memory.linkage, memory.align = "linkonce_odr", 16
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
def binder(kind: Kind) -> Binder:
    """The binder for the device functions of a kernel."""
    device = Device(_device, _shared, VIEWS | MATHEMATICS | {"const": constant_of(intrinsic, types)})
    words = words_for(kind.dtype.type, kind.shape, device)
    return Binder(words, _device, Path(__file__).parent, kind.rules)


def _device(function: Callable[..., Any], thin: bool) -> Any:
    return cuda.jit(device=True, inline="always" if thin else "never")(function)


def source(name: str, kind: Kind) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of an entry (backends/entries.py) as a function, and the types of its arguments."""
    made = binder(kind)
    function = made.wrap(
        entry_around(entries.body(name), after="return"),
        f"{name}.{kind}",
        __name__=__name__,
        body=entries.bound(made, name),
    )
    taken = entries.signature(name, from_dtype(kind.dtype), types, readonly=False)
    return function, (types.Array(types.int64, 1, "C"), *taken)


def kernel(name: str, kind: Kind) -> Any:
    """The kernel of an entry, compiled for the device that there is."""
    function, taken = source(name, kind)
    return cuda.jit(types.void(*taken), cache=True)(function)


class _Device:
    """As much of a device as the compiler asks for."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.compute_capability = capability


def ptx(name: str, kind: Kind, capability: tuple[int, int]) -> str:
    """The PTX of an entry's kernel, made without a device."""
    function, taken = source(name, kind)
    with patch("numba.cuda.dispatcher.get_current_device", lambda: _Device(capability)):
        code, _ = cuda.compile_ptx(function, taken, cc=capability)
    return code
