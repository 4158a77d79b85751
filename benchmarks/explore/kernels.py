"""The kernels of the exploration, with the types of their arguments, so that they compile without a device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

FLOATS = types.Array(types.float32, 1, "C")
INTEGERS = types.Array(types.int32, 1, "C")
FUNCTIONS = {"exp": math.exp, "tanh": math.tanh, "erf": math.erf}
FMA_CHAINS, FMA_UNROLLED = 8, 16  # independent chains cover the latency, unrolling the loop's own instructions


def assembly(context: Any, builder: Any, text: str, result: Any, constraints: str, operands: list[Any]) -> Any:
    """Emit one PTX statement, which nothing is moved across."""
    shape = ir.FunctionType(result, [operand.type for operand in operands])
    constraints = ",".join(filter(None, [constraints, "~{memory}"]))
    return builder.call(ir.InlineAsm(shape, text, constraints, side_effect=True), operands)


def element(context: Any, builder: Any, array_type: Any, array: Any, index: Any, index_type: Any) -> Any:
    """The address of array[index], as an integer."""
    data = context.make_array(array_type)(context, builder, array).data
    position = context.cast(builder, index, index_type, types.intp)
    return builder.ptrtoint(builder.gep(data, [position]), ir.IntType(64))


@intrinsic
def load_acquire(typing_context, array, index):
    def generate(context, builder, signature, arguments):
        address = element(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        return assembly(context, builder, "ld.acquire.gpu.s32 $0, [$1];", ir.IntType(32), "=r,l", [address])

    return types.int32(array, index), generate


@intrinsic
def store_release(typing_context, array, index, value):
    def generate(context, builder, signature, arguments):
        address = element(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        number = context.cast(builder, arguments[2], signature.args[2], types.int32)
        assembly(context, builder, "st.release.gpu.s32 [$0], $1;", ir.VoidType(), "l,r", [address, number])
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def add_acquire_release(typing_context, array, index, value):
    """array[index] += value; the value before."""

    def generate(context, builder, signature, arguments):
        address = element(context, builder, signature.args[0], arguments[0], arguments[1], signature.args[1])
        number = context.cast(builder, arguments[2], signature.args[2], types.int32)
        text = "atom.add.acq_rel.gpu.s32 $0, [$1], $2;"
        return assembly(context, builder, text, ir.IntType(32), "=r,l,r", [address, number])

    return types.int32(array, index, value), generate


@intrinsic
def cluster_sync(typing_context):
    def generate(context, builder, signature, arguments):
        text = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        assembly(context, builder, text, ir.VoidType(), "", [])
        return context.get_dummy_value()

    return types.void(), generate


def grid_barrier(state, k):
    cuda.cg.this_grid().sync()


def counter_barrier(state, k):
    """Everybody waits for the counter of arrivals itself."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        everybody = cuda.gridDim.x * (k + 1)
        add_acquire_release(state, 0, 1)
        while load_acquire(state, 0) < everybody:
            pass
    cuda.syncthreads()


def generation_barrier(state, k):
    """The last to arrive announces the next generation, in another cache line, which everybody waits for."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        if add_acquire_release(state, 0, 1) == cuda.gridDim.x * (k + 1) - 1:
            store_release(state, 32, k + 1)
        else:
            while load_acquire(state, 32) <= k:
                pass
    cuda.syncthreads()


def cluster_barrier(state, k):
    cluster_sync()


BARRIERS = {
    "grid": grid_barrier,
    "counter": counter_barrier,
    "generation": generation_barrier,
    "cluster": cluster_barrier,
}


def bare(barrier: Callable[..., None]) -> Callable[..., None]:
    """A kernel of nothing but barriers. `state` must be all 0."""
    meet = cuda.jit(device=True)(barrier)

    def kernel(count, state):
        for k in range(count):
            meet(state, k)

    return kernel


def exchange(barrier: Callable[..., None]) -> Callable[..., None]:
    """Between barriers, each block leaves the round's number and reads its neighbour's among the `members` that meet.

    `slots` has two rows of gridDim.x, by turns: a neighbour may be one round ahead, and no more.
    """
    meet = cuda.jit(device=True)(barrier)

    def kernel(count, state, members, slots, wrong):
        block = cuda.blockIdx.x
        first = block - block % members
        neighbour = first + (block - first + 1) % members
        for k in range(count):
            row = (k % 2) * cuda.gridDim.x
            if cuda.threadIdx.x == 0:
                slots[row + block] = k
            meet(state, k)
            if cuda.threadIdx.x == 0 and slots[row + neighbour] != k:
                wrong[block] += 1

    return kernel


def fma(starts, count, factor, term, sums):
    """FMA_CHAINS chains x = x * factor + term a thread, from starts[i] + 0, 1, ...; FMA_UNROLLED steps a round."""
    i = cuda.grid(1)
    one = np.float32(1)
    a = starts[i]
    b = a + one
    c = b + one
    d = c + one
    e = d + one
    f = e + one
    g = f + one
    h = g + one
    for _ in range(count):
        for _ in range(FMA_UNROLLED):
            a, b, c, d = (
                cuda.fma(a, factor, term),
                cuda.fma(b, factor, term),
                cuda.fma(c, factor, term),
                cuda.fma(d, factor, term),
            )
            e, f, g, h = (
                cuda.fma(e, factor, term),
                cuda.fma(f, factor, term),
                cuda.fma(g, factor, term),
                cuda.fma(h, factor, term),
            )
    sums[i] = (a + b) + (c + d) + (e + f) + (g + h)


def nothing():
    pass


def advance(source, target):
    """target = source + 1, so that a chain of these counts itself."""
    for i in range(cuda.grid(1), source.size, cuda.gridsize(1)):
        target[i] = source[i] + np.float32(1)


def through_pointer(source, target, size):
    """As `advance`, but for two addresses."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        target[i] = source[i] + np.float32(1)


def sixteen(a, b, c, d, e, f, g, h, p, q, r, s, t, u, v, w):
    """As `advance`, with as many arguments as a training step without flat buffers has."""
    for i in range(cuda.grid(1), a.size, cuda.gridsize(1)):
        w[i] = a[i] + np.float32(1)


def values(function: Callable[..., Any]) -> Callable[..., None]:
    """A kernel y = function(x)."""

    def kernel(x, y):
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            y[i] = function(x[i])

    return kernel


def many(function: Callable[..., Any]) -> Callable[..., None]:
    """A kernel that adds up function(x[i] + k * step) for k < count, and for three more of the rows of x alike: four
    independent sums a thread. `x` has four rows of as many elements as there are threads."""

    def kernel(x, count, step, sums):
        i, row = cuda.grid(1), cuda.gridsize(1)
        a, b, c, d = x[i], x[i + row], x[i + 2 * row], x[i + 3 * row]
        sum_a = sum_b = sum_c = sum_d = np.float32(0)
        for _ in range(count):
            sum_a += function(a)
            sum_b += function(b)
            sum_c += function(c)
            sum_d += function(d)
            a += step
            b += step
            c += step
            d += step
        sums[i] = (sum_a + sum_b) + (sum_c + sum_d)

    return kernel


@dataclass(frozen=True)
class Source:
    """A kernel before it is compiled."""

    function: Callable[..., None]
    takes: tuple[Any, ...]
    fastmath: bool = False


def sources() -> dict[str, Source]:
    """Every kernel by name."""
    pointer = types.CPointer(types.float32)
    made = {
        "fma": Source(fma, (FLOATS, types.int64, types.float32, types.float32, FLOATS)),
        "nothing": Source(nothing, ()),
        "advance": Source(advance, (FLOATS, FLOATS)),
        "through_pointer": Source(through_pointer, (pointer, pointer, types.int64)),
        "sixteen": Source(sixteen, (FLOATS,) * 16),
    }
    for name, barrier in BARRIERS.items():
        made[f"bare {name}"] = Source(bare(barrier), (types.int64, INTEGERS))
        taken = (types.int64, INTEGERS, types.int64, INTEGERS, INTEGERS)
        made[f"exchange {name}"] = Source(exchange(barrier), taken)
    for name, function in FUNCTIONS.items():
        for fast in (False, True):
            suffix = f"{name}{' fastmath' if fast else ''}"
            made[f"values {suffix}"] = Source(values(function), (FLOATS, FLOATS), fast)
            made[f"many {suffix}"] = Source(many(function), (FLOATS, types.int64, types.float32, FLOATS), fast)
    return made


@cache
def compiled(name: str) -> Any:
    """The kernel for the device that there is."""
    source = sources()[name]
    return cuda.jit(types.void(*source.takes), fastmath=source.fastmath)(source.function)
