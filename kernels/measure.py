"""Bodies by which a machine is measured before a plan is chosen: workers multiply, add, and meet."""

from fusedmlp.kernels.dense import add_span
from fusedmlp.kernels.sharing import all_tiles, count_tiles, share, tile
from fusedmlp.kernels.vocabulary import barrier, block, matmul_tile, worker, workers


def multiply(c, a, b, z, times):
    """z = a b, `times` times over, the rows shared out; a (M, K), b (K, N), z (M, N)."""
    first, last = share(z.shape[0], 1, worker(c), workers(c))
    inner, columns = b.shape
    tiles = all_tiles(first, last, 0, columns)
    for _ in range(times):
        for k in range(count_tiles(c, tiles)):
            i, m, j, n = tile(c, tiles, k)
            left, right = block(a, i, 0, m, inner), block(b, 0, j, inner, n)
            matmul_tile(c, left, False, right, False, block(z, i, j, m, n), False)


def add(c, a, y, times):
    """y += a, `times` times over, for rows a and y of one worker."""
    for _ in range(times):
        add_span(c, y, a, y)


def meet(c, times):
    """All workers meet, `times` times."""
    for _ in range(times):
        barrier(c)
