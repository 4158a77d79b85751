"""The vocabulary in plain Python and NumPy: one worker with one lane, and nothing compiled. Slow and obvious; the
backend to put a breakpoint in.
"""

import math
from typing import Any

import numpy as np

from fusedmlp.kernels.summation import STRETCH

# As small as keeps the suite quick, and so small that ordinary layers span several tiles.
TILE_ROWS, TILE_COLUMNS = 16, 16


class Context:
    """One worker's own things: the reason to stop that it was told (0: none), and its scratch."""

    def __init__(self, dtype):
        self.reason = 0
        self.scratch = np.empty(TILE_ROWS * TILE_COLUMNS, dtype)


def const(like, value):
    return like.dtype.type(value)


def erf(z):
    return z.dtype.type(math.erf(z))


def barrier(c):
    return True


def request_stop(c, reason, step):
    c.reason = reason


def matrix(buffer, at, rows, columns):
    return buffer[at : at + rows * columns].reshape(rows, columns)


def matmul_tile(c, a, transpose_a, b, transpose_b, z, accumulate, bias):
    product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
    z[...] = z + product if accumulate else product
    if len(bias):
        for row in z:  # added to all at once, NumPy makes copies of both
            row += bias


def add_rows(c, a, y):
    y[...] = 0
    for row in a:
        y += row


def stretch_exp(c, z, m, y):
    y[...] = np.exp(z - m)
    return y.sum()


def rows_exp(c, z, m, y, s):
    for i in range(len(z)):
        s[i] = stretch_exp(c, z[i], m[i], y[i])


WORDS: dict[str, Any] = {
    "const": const,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": erf,
    "sqrt": np.sqrt,
    "finite": np.isfinite,
    "double": np.float64,
    "worker": lambda c: 0,
    "workers": lambda c: 1,
    "barrier": barrier,
    "request_stop": request_stop,
    "stopped": lambda c: c.reason,
    "lane": lambda c: 0,
    "lanes": lambda c: 1,
    "lane_row": lambda c: 0,
    "lane_rows": lambda c: 1,
    "lane_column": lambda c: 0,
    "lane_columns": lambda c: 1,
    "sync_lanes": lambda c: None,
    "stretch_sum": lambda c, a: a.sum(),
    "stretch_length": lambda c: STRETCH,
    "stretch_exp": stretch_exp,
    "stretch_max": lambda c, a: a.max(),
    "rows_exp": rows_exp,
    "rows_max": lambda c, a, m: a.max(axis=1, out=m),
    "row_sum": lambda c, part, count: part,
    "row_max": lambda c, part, count: part,
    "double_sum": lambda c, part, count: part,
    "matrix": matrix,
    "vector": lambda buffer, at, length: buffer[at : at + length],
    "home": lambda c, buffer, at, rows, columns: matrix(buffer, at, rows, columns),
    "move_in": lambda c, *part: None,
    "move_out": lambda c, *part: None,
    "block": lambda a, row, column, rows, columns: a[row : row + rows, column : column + columns],
    "row": lambda a, i: a[i],
    "gapless": lambda c, a: False,
    "lies_by_output": lambda c, flag: flag > 0,
    "in_place": lambda c, z, y: z,
    "tile_rows": lambda c: TILE_ROWS,
    "tile_columns": lambda c: TILE_COLUMNS,
    "product_tile": lambda c, target: target,
    "scratch": lambda c, like, rows, columns: matrix(c.scratch, 0, rows, columns),
    "matmul_tile": matmul_tile,
    "add_rows": add_rows,
}
