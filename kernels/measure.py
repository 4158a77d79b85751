"""Two bodies by which a machine is measured before a plan is chosen: workers that multiply, and workers that meet."""

from fusedmlp.kernels.dense import share
from fusedmlp.kernels.vocabulary import barrier, block, matmul_tile, tile_columns, tile_rows, worker, workers


def multiply(c, a, b, z, times):
    """z = a b, `times` times over, the rows shared out; a (M, K), b (K, N), z (M, N)."""
    first, last = share(z.shape[0], 1, worker(c), workers(c))
    inner, columns = b.shape
    for _ in range(times):
        for i in range(first, last, tile_rows(c)):
            m = min(tile_rows(c), last - i)
            for j in range(0, columns, tile_columns(c)):
                n = min(tile_columns(c), columns - j)
                left, right = block(a, i, 0, m, inner), block(b, 0, j, inner, n)
                matmul_tile(c, left, False, right, False, block(z, i, j, m, n), False)


def meet(c, times):
    """All workers meet, `times` times."""
    for _ in range(times):
        barrier(c)
