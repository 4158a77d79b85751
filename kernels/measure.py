"""Bodies by which a machine is measured before a plan is chosen: workers multiply, add, write, and meet."""

from fusedmlp.kernels.dense import add_span
from fusedmlp.kernels.sharing import all_tiles, count_tiles, share, tile
from fusedmlp.kernels.vocabulary import barrier, block, matmul_tile, row, vector, worker, workers


def multiply(c, a, b, z, times):
    """z = a b, `times` times over, the rows shared out; a (M, K), b (K, N), z (M, N)."""
    first, last = share(z.shape[0], 1, worker(c), workers(c))
    inner, columns = b.shape
    tiles, none = all_tiles(first, last, 0, columns), vector(row(a, 0), 0, 0)
    for _ in range(times):
        for k in range(count_tiles(c, tiles)):
            i, m, j, n = tile(c, tiles, k)
            left, right = block(a, i, 0, m, inner), block(b, 0, j, inner, n)
            matmul_tile(c, left, False, right, False, block(z, i, j, m, n), False, none)


def add(c, a, y, times):
    """y += a, `times` times over; a and y (M, N)."""
    for _ in range(times):
        for i in range(y.shape[0]):
            add_span(c, row(a, i), row(y, i))


def write(c, a, y, by_columns, turning, multiple, times):
    """y (M, N) += a (M, N), `times` times over, each worker a share of the columns, or else of the rows: always the
    same, or where `turning` is 1 and not 0, after each time the next worker's."""
    rows, columns = y.shape
    for k in range(times):
        number = (worker(c) + k * turning) % workers(c)
        first_row, last_row, first_column, last_column = 0, rows, 0, columns
        if by_columns:
            first_column, last_column = share(columns, multiple, number, workers(c))
        else:
            first_row, last_row = share(rows, 1, number, workers(c))
        length = last_column - first_column
        for i in range(first_row, last_row):
            add_span(c, vector(row(a, i), first_column, length), vector(row(y, i), first_column, length))
        barrier(c)


def meet(c, times):
    """All workers meet, `times` times."""
    for _ in range(times):
        barrier(c)
