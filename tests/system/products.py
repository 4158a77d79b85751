"""`python products.py`: the product of the processor for which Numba compiles, on integers, where it must be exact."""

import ctypes
import itertools
import mmap

import numpy as np

from fusedmlp.backends.cpu import product

FORMS = list(itertools.product((False, True), repeat=2))


PLAIN, ACCUMULATE, BIAS = range(3)  # what becomes of a product: z =, z += , or z = with a bias added to each row


def multiply(load, scratch, a, transpose_a, b, transpose_b, z, form, bias):
    rows, columns = z.shape
    inner = a.shape[0] if transpose_a else a.shape[1]
    of_a, of_b, of_z = [(array.ctypes.data, array.strides[0]) for array in (a, b, z)]
    more = (bias.ctypes.data, 0) if form == BIAS else of_z
    matrices = *of_a, transpose_a, *of_b, transpose_b, *of_z, scratch.ctypes.data, *more, form != PLAIN
    given = np.array([rows, columns, inner, *matrices], np.int64)
    load.ctypes(given.ctypes.data)


def check(load, scratch, rng, shape, form, result, padding=0):
    """z within a frame that must stay as it is; what lies beside the operands' rows, and the bias, is NaN and must not
    be used."""
    rows, columns, inner = shape
    dtype = scratch.dtype

    def operand(height, width):
        wide = np.full((height, width + padding), np.nan, dtype)
        wide[:, :width] = rng.integers(-4, 5, (height, width))
        return wide[:, :width]

    a = operand(inner, rows) if form[0] else operand(rows, inner)
    b = operand(columns, inner) if form[1] else operand(inner, columns)
    framed = rng.integers(-4, 5, (rows + 2, columns + 5)).astype(dtype)
    expected, z = framed.copy(), framed[1:-1, 2:-3]
    exact = (a.T if form[0] else a) @ (b.T if form[1] else b)
    bias = operand(1, columns)[0]
    expected[1:-1, 2:-3] = exact + (0, z, bias)[result]
    multiply(load, scratch, a, form[0], b, form[1], z, result, bias)
    assert np.array_equal(framed, expected), (shape, form, result, padding, str(dtype))


def before_a_wall(array):
    """A copy whose last byte lies before a page that may not be touched."""
    page = mmap.PAGESIZE
    room = mmap.mmap(-1, (array.nbytes // page + 2) * page)
    wall = len(room) - page
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + wall), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(room, array.dtype, array.size, wall - array.nbytes).reshape(array.shape)
    copy[:] = array
    return copy


def check_ends(load, scratch, rng, shape, form, result):
    """Nothing is read or written behind the last number of an operand, of the bias or of z."""
    rows, columns, inner = shape
    sizes = (inner, rows) if form[0] else (rows, inner), (columns, inner) if form[1] else (inner, columns)
    a, b, bias, z = (
        before_a_wall(rng.integers(-4, 5, size).astype(scratch.dtype)) for size in (*sizes, (columns,), (rows, columns))
    )
    exact = (a.T if form[0] else a) @ (b.T if form[1] else b) + (0, z, bias)[result]
    multiply(load, scratch, a, form[0], b, form[1], z, result, bias)
    assert np.array_equal(z, exact), (shape, form, result, str(scratch.dtype))


def main():
    tile = product.register_tile()
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        load, rng = product.load(dtype.name, ""), np.random.default_rng(0)
        scratch = np.full(product.room(dtype), np.nan, dtype)
        lanes, wide = tile.lanes(8 * dtype.itemsize), tile.columns(8 * dtype.itemsize)
        edges = itertools.product(range(1, 2 * tile.rows + 1), range(1, 2 * wide + 1))
        for number, (rows, columns) in enumerate(edges):
            inner = (1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes + 3)[number % 6]
            check(load, scratch, rng, (rows, columns, inner), FORMS[number % 4], number % 3, number % 2)
        for inner, form, result in itertools.product(range(1, 2 * lanes + 2), FORMS, range(3)):
            check(load, scratch, rng, (tile.rows + 1, wide + 1, inner), form, result)
        beyond = product.INNER, product.INNER + 1, 2 * product.INNER + 5
        for inner, form, result in itertools.product(beyond, FORMS, (ACCUMULATE, BIAS)):
            check(load, scratch, rng, (2 * tile.rows + 3, wide + lanes + 1, inner), form, result, 3)
        page = product.COLLIDING // dtype.itemsize  # numbers from row to row of an operand whose rows collide
        for rows, result in itertools.product((product.WORTH_PACKING - 1, product.WORTH_PACKING), range(3)):
            check(load, scratch, rng, (rows, page, product.INNER + 1), (False, False), result)
            check(load, scratch, rng, (rows, page - 3, product.INNER + 1), (False, False), result, 3)
        for columns, form, result in itertools.product(range(1, wide + 2), FORMS, range(3)):
            check_ends(load, scratch, rng, (tile.rows + 1, columns, 3), form, result)
    print(f"exact in vectors of {tile.bits} bits")


if __name__ == "__main__":
    main()
