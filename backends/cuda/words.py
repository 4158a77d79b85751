"""The vocabulary on CUDA: a worker is a block, its lanes are the block's threads, laid over a tile as the block's
two dimensions. Every thread knows who it is; the context is an array of the words by which blocks stop.

The words of one dtype at a time, since shared memory is declared with its type. `device` compiles a word for the
device; the simulator runs them as they stand.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

# Tiles of 16 by 16, an element for each of 256 threads, operands read from global memory: right, and slow. The
# executor that launches on a device brings staged operands and tiles by shape.
TILE = 16
THREADS = (16, 16)

# The context: the reason to stop that a block asked for, and how many steps were finished.
REQUEST, DONE = 0, 1
SYNC_LENGTH = 2


def words_for(
    dtype: Any,
    views: dict[str, Callable[..., Any]],
    device: Callable[[Any, bool], Any],
    shared: Callable[[int], Callable[[], Any]],
    tile: int = TILE,
    lanes: int = 256,
) -> dict[str, Any]:
    """Every word, for a compute dtype.

    views   the words that are no functions of the device's: views of memory, and mathematics
    device  device(function, thin) compiles a word; a thin one becomes part of its caller, which a function that gives
            an array of its own must
    shared  shared(length) gives a function whose result is one array of the block's shared memory
    tile    rows and columns of a tile, lanes the most threads of a block
    """
    matrix = views["matrix"]
    parts_of_lanes, tile_of_product, tile_of_scratch = shared(lanes), shared(tile * tile), shared(tile * tile)

    def worker(c):
        return cuda.blockIdx.x

    def workers(c):
        return cuda.gridDim.x

    def barrier(c):
        cuda.cg.this_grid().sync()
        return True

    def request_stop(c, reason):
        c[REQUEST] = reason

    def stopped(c):
        return c[REQUEST]  # written before a barrier of the grid, and not again before the next

    def lane(c):
        return cuda.threadIdx.x + cuda.blockDim.x * cuda.threadIdx.y

    def lane_count(c):
        return cuda.blockDim.x * cuda.blockDim.y

    def lane_row(c):
        return cuda.threadIdx.y

    def lane_rows(c):
        return cuda.blockDim.y

    def lane_column(c):
        return cuda.threadIdx.x

    def lane_columns(c):
        return cuda.blockDim.x

    def sync_lanes(c):
        cuda.syncthreads()

    def over_lanes(combine):
        """The word that combines what the lanes bring, in the order of a tree, which depends on their number alone."""
        joined = device(combine, True)

        def combined(c, part):
            parts = parts_of_lanes()
            k = cuda.threadIdx.x + cuda.blockDim.x * cuda.threadIdx.y
            width = cuda.blockDim.x * cuda.blockDim.y
            cuda.syncthreads()
            parts[k] = part
            cuda.syncthreads()
            while width > 1:
                half = (width + 1) // 2
                if k < width - half:
                    parts[k] = joined(parts[k], parts[k + half])
                cuda.syncthreads()
                width = half
            return parts[0]

        return combined

    def total(a, b):
        return a + b

    def greatest(a, b):
        return a if a >= b else b

    def tile_extent(c):
        return tile

    def product_tile(c, target):
        return matrix(tile_of_product(), 0, target.shape[0], target.shape[1])

    def scratch(c, like, rows, columns):
        return matrix(tile_of_scratch(), 0, rows, columns)

    def matmul_tile(c, a, transpose_a, b, transpose_b, z, accumulate):
        inner = a.shape[0] if transpose_a else a.shape[1]
        for i in range(cuda.threadIdx.y, z.shape[0], cuda.blockDim.y):
            for j in range(cuda.threadIdx.x, z.shape[1], cuda.blockDim.x):
                total = dtype(0)
                for k in range(inner):
                    left = a[k, i] if transpose_a else a[i, k]
                    total += left * (b[j, k] if transpose_b else b[k, j])
                z[i, j] = z[i, j] + total if accumulate else total
        cuda.syncthreads()

    giving_arrays = {"product_tile": product_tile, "scratch": scratch}
    plain = {
        "worker": worker,
        "workers": workers,
        "barrier": barrier,
        "request_stop": request_stop,
        "stopped": stopped,
        "lane": lane,
        "lanes": lane_count,
        "lane_row": lane_row,
        "lane_rows": lane_rows,
        "lane_column": lane_column,
        "lane_columns": lane_columns,
        "sync_lanes": sync_lanes,
        "row_sum": over_lanes(total),
        "row_max": over_lanes(greatest),
        "tile_rows": tile_extent,
        "tile_columns": tile_extent,
        "matmul_tile": matmul_tile,
    }
    return (
        {name: device(function, False) for name, function in plain.items()}
        | {name: device(function, True) for name, function in giving_arrays.items()}
        | views
    )


MATHEMATICS = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "tanh": math.tanh,
    "erf": math.erf,
    "sqrt": math.sqrt,
    "finite": math.isfinite,
    "double": np.float64,
}


def simulated(body, arguments):
    """A simulated kernel. The simulator gives `cuda` its meaning in the globals of the kernel's own module, which are
    those of the words. The arguments come as one tuple: by themselves arrays would be copied, and written back one
    over the other where two are the same."""
    result = body(*arguments)
    if result is not None and cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0:
        arguments[0][DONE] = result
