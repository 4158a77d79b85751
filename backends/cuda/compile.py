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
from numba.cuda.cudadrv import driver
from numba.cuda.extending import intrinsic
from numba.cuda.np.numpy_support import from_dtype

from fusedmlp.backends import entries
from fusedmlp.backends.binder import Binder, entry_around
from fusedmlp.backends.cuda.kinds import Kind
from fusedmlp.backends.cuda.words import MATHEMATICS, Device, thread_x, thread_y, words_for
from fusedmlp.backends.views import constant_of, strided_of, view_of, views

SHARED = 3  # NVPTX's address space of shared memory

matrix, vector, block, row = views(intrinsic, types, cgutils)


def _shared(name: str, length: int, dtype: Any) -> Any:
    """A word that gives the block's array of that name in shared memory, the same one wherever it is spoken in one
    kernel. (Numba CUDA's own `shared.array` makes a symbol with external linkage, which is defined twice where two
    functions call the one that holds it.) Length 0: as much as the launch asks for."""
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
                memory.align = 16
                if length:
                    memory.linkage, memory.initializer = "linkonce_odr", ir.Constant(storage, ir.Undefined)
                else:
                    memory.linkage = "external"
            pointer = builder.addrspacecast(memory, ir.PointerType(storage), "generic")
            itemsize = context.get_constant(types.intp, scalar.bitwidth // 8)
            shape = (context.get_constant(types.intp, length),)
            return view_of(context, builder, types, made, pointer, shape, (itemsize,))

        return made(), generate

    return array


def _dynamic(name: str, dtype: Any) -> Any:
    return _shared(name, 0, dtype)


VIEWS = {"matrix": matrix, "vector": vector, "block": block, "row": row, "strided": strided_of(intrinsic, types)}


@cache
def binder(kind: Kind) -> Binder:
    """The binder for the device functions of a kernel."""
    return Binder(words(kind), _compile, Path(__file__).parent, kind.rules)


@cache
def words(kind: Kind) -> dict[str, Any]:
    views = VIEWS | MATHEMATICS | {"const": constant_of(intrinsic, types)}
    thread = (_thread("x"), _thread("y")) if kind.home else (_compile(thread_x, True), _compile(thread_y, True))
    return words_for(kind, Device(_compile, _shared, _dynamic, thread, views))


def _compile(function: Callable[..., Any], thin: bool) -> Any:
    """A device function."""
    return cuda.jit(device=True, inline="always" if thin else "never")(function)


def _thread(axis: str) -> Any:
    """A thread's position in its block, asked of the hardware anew at each call. In the interpreter the compiler would
    else take every address that follows from it out of the loop over all instructions: 116 of 255 registers stood
    occupied between two of them, and it spilled (CUDA 13.5, sm_90)."""

    @intrinsic
    def position(typing_context):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.IntType(32), [])
            read = builder.asm(kind, f"mov.u32 $0, %tid.{axis};", "=r", [], side_effect=True)
            return builder.zext(read, ir.IntType(64))

        return types.int64(), generate

    return position


def source(name: str, kind: Kind) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of an entry (backends/entries.py) as a function, and the types of its arguments."""
    made = binder(kind)
    function = made.wrap(
        entry_around(entries.body(name), before="begin(c)", after="return"),
        f"{name}.{kind}",
        __name__=__name__,
        begin=words(kind)["begin"],
        body=entries.bound(made, name),
    )
    taken = entries.signature(name, from_dtype(kind.dtype), types, readonly=False)
    return function, (types.Array(types.int64, 1, "C"), *taken)


def kernel(name: str, kind: Kind) -> Any:
    """The kernel of an entry, compiled for the device that there is."""
    function, taken = source(name, kind)
    return cuda.jit(types.void(*taken), cache=True)(function)


def allow_shared(made: Any, most: int) -> int:
    """Lets the launches of a kernel ask for shared memory up to the `most` bytes that a block may have, where 48 KiB
    are allowed unasked; returns how many that leaves beside what the kernel itself declares."""
    (overload,) = made.overloads.values()
    function = overload._codelibrary.get_cufunc()
    room = (most - function.attrs.shared) // 16 * 16
    attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    driver.driver.cuKernelSetAttribute(attribute, room, function.handle, function.device.id)
    return room


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
