"""What the processor must be told in its own terms: views, atomics, the pause and yield of a waiting
worker, and the treatment of subnormals. Each is one Numba intrinsic of a few LLVM instructions.

Everything here survives Numba's cache on disk: symbols are called by name, and no address is compiled in.
"""

import ctypes
import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.backends.views import matrix_of, size_of, sizes_of, source_of, views

ARM = platform.machine().lower() in ("aarch64", "arm64")
X86 = platform.machine().lower() in ("x86_64", "amd64")

int32 = ir.IntType(32)
int64 = ir.IntType(64)


matrix, vector, block, row = views(intrinsic, types, cgutils)


@intrinsic
def home(typing_context, c, buffer, at, rows, columns):
    """The weights of every worker lie in the buffer; which of them are its own, and in its cache, the plan says."""

    def generate(context, builder, signature, arguments):
        source = source_of(context, builder, signature, arguments, 1)
        sizes = sizes_of(context, builder, types, signature, arguments, 2)
        return matrix_of(context, builder, types, signature, source, *sizes)

    return types.Array(buffer.dtype, 2, "C")(c, buffer, at, rows, columns), generate


@intrinsic
def scratch(typing_context, c, like, rows, columns):
    """The fourth member of the context is the worker's tile."""

    def generate(context, builder, signature, arguments):
        tile_type = signature.args[0].types[3]
        tile = context.make_array(tile_type)(context, builder, builder.extract_value(arguments[0], 3))
        sizes = sizes_of(context, builder, types, signature, arguments, 2)
        zero = context.get_constant(types.intp, 0)
        return matrix_of(context, builder, types, signature, tile, zero, *sizes)

    return types.Array(like.dtype, 2, "C")(c, like, rows, columns), generate


# Atomics on an int64 array: arrivals and generations of the barrier, requests to stop.


def _element(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [size_of(context, builder, types, arguments[1], signature.args[1])])


@intrinsic
def atomic_add(typing_context, array, index, amount):
    """array[index] += amount, sequentially consistent; the value before."""

    def generate(context, builder, signature, arguments):
        amount = size_of(context, builder, types, arguments[2], signature.args[2])
        return builder.atomic_rmw("add", _element(context, builder, signature, arguments), amount, "seq_cst")

    return types.int64(array, index, amount), generate


@intrinsic
def atomic_load(typing_context, array, index):
    """array[index], acquire."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_element(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, index), generate


@intrinsic
def atomic_store(typing_context, array, index, value):
    """array[index] = value, sequentially consistent."""

    def generate(context, builder, signature, arguments):
        value = size_of(context, builder, types, arguments[2], signature.args[2])
        builder.store_atomic(value, _element(context, builder, signature, arguments), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


def _declare(builder, name, result, parameters):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)


@intrinsic
def pause(typing_context):
    """Tells the core that this is a loop that waits."""

    def generate(context, builder, signature, arguments):
        if X86:
            builder.call(_declare(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif ARM:
            builder.call(_declare(builder, "llvm.aarch64.hint", ir.VoidType(), [int32]), [int32(1)])
        return context.get_dummy_value()

    return types.void(), generate


yield_core = types.ExternalFunction("sched_yield", types.intc())

# Whether waiting workers can give up their core: without it a gang is not formed and everything runs serially.
CAN_YIELD = sys.platform != "win32" and hasattr(ctypes.CDLL(None), "sched_yield")


# Subnormal numbers count as zero while a compiled call runs: without that the momentum of dead units sticks among
# them, and the update of a sketch ran 50 to 90 times slower (2 cores with AVX-512).

SSE_FLUSH = 0x8040  # MXCSR: bit 15 flushes results to zero, bit 6 reads subnormals as zero.
ARM_FLUSH = 1 << 24  # FPCR.FZ


@intrinsic
def flush_subnormals(typing_context):
    """From here on this thread reads and writes subnormals as zero; gives the mode that it had."""

    def generate(context, builder, signature, arguments):
        if X86:
            cell = cgutils.alloca_once(builder, int32)
            pointer = builder.bitcast(cell, cgutils.voidptr_t)
            builder.call(_declare(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [cgutils.voidptr_t]), [pointer])
            mode = builder.load(cell)
            builder.store(builder.or_(mode, int32(SSE_FLUSH)), cell)
            builder.call(_declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [cgutils.voidptr_t]), [pointer])
            return builder.zext(mode, int64)
        if ARM:
            mode = builder.call(_declare(builder, "llvm.aarch64.get.fpcr", int64, []), [])
            flushed = builder.or_(mode, int64(ARM_FLUSH))
            builder.call(_declare(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [int64]), [flushed])
            return mode
        return int64(0)

    return types.int64(), generate


@intrinsic
def restore_subnormals(typing_context, mode):
    """Gives this thread the mode back that `flush_subnormals` gave."""

    def generate(context, builder, signature, arguments):
        if X86:
            cell = cgutils.alloca_once(builder, int32)
            builder.store(builder.trunc(arguments[0], int32), cell)
            pointer = builder.bitcast(cell, cgutils.voidptr_t)
            builder.call(_declare(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [cgutils.voidptr_t]), [pointer])
        elif ARM:
            setter = _declare(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [int64])
            builder.call(setter, [arguments[0]])
        return context.get_dummy_value()

    return types.void(types.int64), generate
