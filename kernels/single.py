"""The single kernels as all workers run them together, over arrays of the caller's.

Shapes as in dense.py and batch_loss.py; every matrix is contiguous. `kind` numbers the rule, p holds its parameters.
"""

from fusedmlp.kernels.batch_loss import loss_tile, total_loss
from fusedmlp.kernels.dense import (
    SUM_ROWS,
    accumulate_span,
    activate,
    activate_tile,
    activation_backward,
    add_to_rows,
    clear_span,
    column_sums,
    dense_forward,
    input_gradient,
    update_tile,
    weight_gradient,
)
from fusedmlp.kernels.sharing import all_tiles, share
from fusedmlp.kernels.summation import row_total
from fusedmlp.kernels.vocabulary import (
    barrier,
    block,
    lane,
    lane_rows,
    matrix,
    row,
    scratch,
    sync_lanes,
    tile_columns,
    tile_rows,
    vector,
    worker,
    workers,
)


def forward(c, x, weight, bias, y, saved, keep, kind, by_row, identity_kind, p, multiple):
    """y = f(x weightᵀ + bias). The workers share out the rows, or the columns where those are more. A rule of scope
    "row" (`by_row`) follows each tile's rows at once, when all their columns are there."""
    batch, outputs = y.shape
    if by_row:
        first, last = share(batch, 1, worker(c), workers(c))
        for i in range(first, last, tile_rows(c)):
            end = min(i + tile_rows(c), last)
            dense_forward(c, x, weight, False, bias, y, saved, False, identity_kind, p, all_tiles(i, end, 0, outputs))
            activate(c, y, y, y, False, kind, p, i, end)
            sync_lanes(c)
    elif batch >= outputs:
        first, last = share(batch, 1, worker(c), workers(c))
        dense_forward(c, x, weight, False, bias, y, saved, keep, kind, p, all_tiles(first, last, 0, outputs))
    else:
        first, last = share(outputs, multiple, worker(c), workers(c))
        dense_forward(c, x, weight, False, bias, y, saved, keep, kind, p, all_tiles(0, batch, first, last))


def backward(c, dy, x, weight, saved, panel, dx, dweight, dbias, kind, identity_kind, p, multiple):
    """(dx, dweight, dbias) from dy. dz exists only for as many rows as `panel`, (n,), has room for: their gradients are
    taken before the next rows' dz. An empty dx or dbias is not wanted."""
    batch, inputs, outputs = x.shape[0], x.shape[1], weight.shape[0]
    first_output, last_output = share(outputs, multiple, worker(c), workers(c))
    room = panel.shape[0] // outputs
    for number in range((batch + room - 1) // room):  # a range with a step of its own could raise
        start = number * room
        count = min(room, batch - start)
        first, last = share(count, 1, worker(c), workers(c))
        dz = block(matrix(panel, 0, count, outputs), 0, 0, count, outputs)
        dy_rows, saved_rows = block(dy, start, 0, count, outputs), block(saved, start, 0, count, outputs)
        activation_backward(c, dy_rows, saved_rows, dz, kind, p, first, last)
        sync_lanes(c)
        if dx.shape[0] > 0:
            target = block(dx, start, 0, count, inputs)
            input_gradient(c, dz, weight, False, target, target, identity_kind, p, all_tiles(first, last, 0, inputs))
        barrier(c)
        weight_gradient(c, dz, block(x, start, 0, count, inputs), dweight, start > 0, first_output, last_output)
        if dbias.shape[0] > 0:
            add_bias_gradient(c, dz, dbias, start > 0, first_output, last_output)
        barrier(c)


def epilogue(c, z, bias, y, saved, keep, kind, p):
    """y = f(z + bias), and with `keep` saved = z + bias, of a product z that is there, which becomes z + bias; y and
    saved may be z."""
    first, last = share(z.shape[0], 1, worker(c), workers(c))
    rows, columns = last - first, z.shape[1]
    if rows > 0:
        z = block(z, first, 0, rows, columns)
        if bias.shape[0] > 0:
            add_to_rows(c, bias, z)
            sync_lanes(c)
        activate_tile(kind, c, z, block(y, first, 0, rows, columns), block(saved, first, 0, rows, columns), keep, p)


def bias_gradient(c, dz, dbias, accumulate, multiple):
    """dbias = the column sums of dz; += with `accumulate`."""
    first, last = share(dz.shape[1], multiple, worker(c), workers(c))
    add_bias_gradient(c, dz, dbias, accumulate, first, last)


def add_bias_gradient(c, dz, dbias, accumulate, first, last):
    """dbias = the column sums of dz on a range of columns; += with `accumulate`."""
    for j in range(first, last, tile_columns(c)):
        n = min(tile_columns(c), last - j)
        sums, target = scratch(c, dz, SUM_ROWS, n), vector(dbias, j, n)
        column_sums(c, block(dz, 0, j, dz.shape[0], n), sums)
        if not accumulate:
            clear_span(c, target)
        accumulate_span(c, row(sums, 0), target)
        sync_lanes(c)


def apply(c, z, y, kind, p):
    """y = f(z)."""
    first, last = share(z.shape[0], 1, worker(c), workers(c))
    activate(c, z, y, y, False, kind, p, first, last)


def apply_backward(c, dy, saved, dz, kind, p):
    """dz = dy f'(saved)."""
    first, last = share(dy.shape[0], 1, worker(c), workers(c))
    activation_backward(c, dy, saved, dz, kind, p, first, last)


def loss(c, a, truth, labels, da, losses, total, weights, factor, by_mass, kind, p):
    """Each row's loss and gradient, times factor and weight, and with `by_mass` over the weights' sum; the rows' sum in
    total[0] where losses is (B, 1)."""
    first, last = share(a.shape[0], 1, worker(c), workers(c))
    if by_mass:
        factor = factor / row_total(c, weights)
    loss_tile(kind, c, a, truth, labels, da, losses, weights, factor, p, first, last)
    barrier(c)
    if losses.shape[1] == 1 and worker(c) == 0:
        sum_of_rows = total_loss(c, losses, a.shape[0])
        if lane(c) == 0:
            total[0] = sum_of_rows


def step(c, g, w, s0, s1, s2, kind, h, multiple):
    """One optimizer step of w by g, all (n,). Rows of lanes take a worker's share as rows as long as a tile, and then
    what remains; a single one takes it whole (in rows of 512 momentum was a fifth slower, 1e6 elements)."""
    first, last = share(w.shape[0], multiple, worker(c), workers(c))
    length = tile_columns(c) if lane_rows(c) > 1 else max(1, last - first)
    rows = (last - first) // length
    rest = first + rows * length
    step_rows(c, g, w, s0, s1, s2, kind, h, first, rows, length)
    step_rows(c, g, w, s0, s1, s2, kind, h, rest, 1, last - rest)


def step_rows(c, g, w, s0, s1, s2, kind, h, at, rows, length):
    """A step of rows x length elements from element `at` on."""
    update_tile(
        kind,
        c,
        matrix(g, at, rows, length),
        matrix(w, at, rows, length),
        matrix(s0, at, rows, length),
        matrix(s1, at, rows, length),
        matrix(s2, at, rows, length),
        h,
    )
