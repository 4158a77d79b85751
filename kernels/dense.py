"""The bodies of a dense layer: what one worker does to one tile, and to a rectangle of tiles.

Shapes: x (B, I), weight (O, I) or, `by_input`, its transpose (I, O), bias (O,), z y (B, O); gradients dx dweight dbias
dz dy have the shapes of what they belong to. An empty bias is none. `saved` is y itself or z, as the activation's rule
says. A program keeps most weights by input: so the second operands of x weightᵀ and of xᵀ dz, most of a step, have
their columns side by side, as the product of a tile wants them.

z = x weightᵀ + bias, y = f(z); dz = dy f'(z), dx = dz weight, dweight = dzᵀ x, dbias = the column sums of dz
(Rumelhart, Hinton and Williams, Nature 323, 1986).
"""

from fusedmlp.kernels.choice import SAVES_PREACTIVATION, SLOTS, Choice, gradient, step, value
from fusedmlp.kernels.sharing import all_tiles, count_tiles, tile
from fusedmlp.kernels.summation import STRETCH, compensated
from fusedmlp.kernels.vocabulary import (
    add_rows,
    block,
    const,
    gapless,
    in_place,
    inner_loop,
    lane,
    lane_column,
    lane_columns,
    lane_row,
    lane_rows,
    lanes,
    matmul_tile,
    product_tile,
    row,
    scratch,
    sync_lanes,
    thin,
    tile_columns,
    vector,
)

# Inner loops stand in functions of their own over contiguous rows: only so does LLVM see that the operands are
# apart and that no index is negative. Inlined into its caller the momentum update of a sketch took nine times longer
# (784-128-10, 250 µs for 29, 2 cores with AVX-512).


@thin
def spans(c, a, b, d):
    """(count, length) of the rows of three blocks of one shape: where in each they follow on one another, it is one."""
    rows, columns = a.shape
    if gapless(c, a) and gapless(c, b) and gapless(c, d):
        return 1, rows * columns
    return rows, columns


@thin
def span(a, i, length):
    return vector(row(a, i), 0, length)


@thin
def activate_elements(c, z, y, saved, keep, p):
    count, length = spans(c, z, y, saved)
    for i in range(lane_row(c), count, lane_rows(c)):
        activate_span(c, span(z, i, length), span(y, i, length), span(saved, i, length), keep, p)


def activate_span(c, z, y, saved, keep, p):
    z = in_place(c, z, y)
    for j in range(lane_column(c), z.shape[0], lane_columns(c)):
        s = z[j]
        if SAVES_PREACTIVATION and keep:
            saved[j] = s
        y[j] = value(s, p)


@thin
def activate_rows(c, z, y, saved, keep, p):
    for i in range(z.shape[0]):
        value(c, row(z, i), row(y, i))


@thin
def add_to_rows(c, a, y):
    """Adds the row `a` to each of the block y: a bias, where what made a product did not add it."""
    for i in range(lane_row(c), y.shape[0], lane_rows(c)):
        add_span(c, a, row(y, i))


@inner_loop
def add_span(c, a, y):
    for j in range(lane_column(c), y.shape[0], lane_columns(c)):
        y[j] += a[j]


@thin
def gradient_elements(c, dy, saved, dz, p):
    count, length = spans(c, dy, saved, dz)
    for i in range(lane_row(c), count, lane_rows(c)):
        gradient_span(c, span(dy, i, length), span(saved, i, length), span(dz, i, length), p)


def gradient_span(c, dy, saved, dz, p):
    dy = in_place(c, dy, dz)
    for j in range(lane_column(c), dy.shape[0], lane_columns(c)):
        dz[j] = dy[j] * gradient(saved[j], p)


@thin
def gradient_rows(c, dy, saved, dz, p):
    for i in range(dy.shape[0]):
        gradient(c, row(dy, i), row(saved, i), row(dz, i))


@thin
def update_elements(c, g, w, s0, s1, s2, h):
    count, length = spans(c, g, w, w)  # slots lie as what they belong to
    for i in range(lane_row(c), count, lane_rows(c)):
        w_row, g_row = span(w, i, length), span(g, i, length)
        update_span(c, g_row, w_row, span(s0, i, length), span(s1, i, length), span(s2, i, length), h)


@inner_loop
def update_span(c, g, w, s0, s1, s2, h):
    for j in range(lane_column(c), w.shape[0], lane_columns(c)):
        a = s0[j] if SLOTS > 0 else const(w[j], 0)
        b = s1[j] if SLOTS > 1 else const(w[j], 0)
        d = s2[j] if SLOTS > 2 else const(w[j], 0)
        w[j], a, b, d = step(w[j], g[j], a, b, d, h)
        if SLOTS > 0:
            s0[j] = a
        if SLOTS > 1:
            s1[j] = b
        if SLOTS > 2:
            s2[j] = d


# activate_tile(kind, c, z, y, saved, keep, p): y = f(z); with `keep`, z goes to `saved` where the rule saves it. z may
# be y. A rule of scope "row" takes each row of the tile as the whole row.
activate_tile = Choice(
    "activations",
    lambda rule: activate_elements if rule.scope == "element" else activate_rows,
    lambda rule: {"value": rule.value, "SAVES_PREACTIVATION": rule.saves == "preactivation"},
)

# gradient_tile(kind, c, dy, saved, dz, p): dz = dy f'(z). dz may be dy.
gradient_tile = Choice(
    "activations",
    lambda rule: gradient_elements if rule.scope == "element" else gradient_rows,
    lambda rule: {"gradient": rule.gradient},
)

# update_tile(kind, c, g, w, s0, s1, s2, h): one optimizer step of w by its gradient g; slots that the rule does not
# keep are not touched.
update_tile = Choice(
    "updates",
    lambda rule: update_elements,
    lambda rule: {"step": rule.step, "SLOTS": rule.slots},
)


@thin
def dense_forward(c, x, weight, by_input, bias, y, saved, keep, kind, p, tiles):
    """y = f(x weightᵀ + bias) on these tiles of y, one at a time: the epilogue of a tile comes before the next one's
    product. A rule of scope "row" needs all columns of its rows, so it has a pass of its own: `activate`."""
    inputs = x.shape[1]
    for k in range(count_tiles(c, tiles)):
        i, m, j, n = tile(c, tiles, k)
        target = block(y, i, j, m, n)
        z = product_tile(c, target)
        of_outputs = block(weight, 0, j, inputs, n) if by_input else block(weight, j, 0, n, inputs)
        b = vector(bias, j, n) if bias.shape[0] > 0 else bias
        matmul_tile(c, block(x, i, 0, m, inputs), False, of_outputs, not by_input, z, False, b)
        activate_tile(kind, c, z, target, block(saved, i, j, m, n), keep, p)
        sync_lanes(c)


@thin
def input_gradient(c, dz, weight, by_input, saved, dx, kind, p, tiles):
    """dx = (dz weight) f'(saved) on these tiles of dx, f being the activation of the layer below."""
    outputs, none = dz.shape[1], vector(row(dz, 0), 0, 0)
    for k in range(count_tiles(c, tiles)):
        i, m, j, n = tile(c, tiles, k)
        target = block(dx, i, j, m, n)
        z = product_tile(c, target)
        to_inputs = block(weight, j, 0, n, outputs) if by_input else block(weight, 0, j, outputs, n)
        matmul_tile(c, block(dz, i, 0, m, outputs), False, to_inputs, by_input, z, False, none)
        gradient_tile(kind, c, z, block(saved, i, j, m, n), target, p)
        sync_lanes(c)


@thin
def weight_update(c, of_rows, of_columns, weight, s0, s1, s2, kind, h, tiles):
    """weight takes one optimizer step by of_rowsᵀ of_columns, on these tiles of it: xᵀ dz of a weight (I, O), dzᵀ x of
    one that lies by output, (O, I). The gradient of a tile lives only until its step is done."""
    batch, none = of_rows.shape[0], vector(row(of_rows, 0), 0, 0)
    for k in range(count_tiles(c, tiles)):
        i, m, o, n = tile(c, tiles, k)
        g = scratch(c, weight, m, n)
        matmul_tile(c, block(of_rows, 0, i, batch, m), True, block(of_columns, 0, o, batch, n), False, g, False, none)
        update_tile(
            kind,
            c,
            g,
            block(weight, i, o, m, n),
            block(s0, i, o, m, n),
            block(s1, i, o, m, n),
            block(s2, i, o, m, n),
            h,
        )
        sync_lanes(c)


@thin
def bias_update(c, dz, bias, s0, s1, s2, kind, h, first_column, last_column):
    """bias (1, O) takes one optimizer step by the column sums of dz, on a range of columns."""
    for j in range(first_column, last_column, tile_columns(c)):
        n = min(tile_columns(c), last_column - j)
        sums = scratch(c, bias, SUM_ROWS, n)
        column_sums(c, block(dz, 0, j, dz.shape[0], n), sums)
        update_tile(
            kind,
            c,
            block(sums, 0, 0, 1, n),
            block(bias, 0, j, 1, n),
            block(s0, 0, j, 1, n),
            block(s1, 0, j, 1, n),
            block(s2, 0, j, 1, n),
            h,
        )
        sync_lanes(c)


SUM_ROWS = 3  # what column_sums needs: the sums, the sums of a stretch of rows, the errors of the sums


def column_sums(c, a, sums):
    """Row 0 of sums (SUM_ROWS, n) = the sums of the columns of a (m, n)."""
    total, part, error = row(sums, 0), row(sums, 1), row(sums, 2)
    rows = STRETCH * lane_rows(c)
    if a.shape[0] > rows:
        clear_span(c, error)
    for start in range(0, a.shape[0], rows):
        add_rows(c, block(a, start, 0, min(rows, a.shape[0] - start), a.shape[1]), total if start == 0 else part)
        if start > 0:
            compensated_span(c, part, total, error)
    sync_lanes(c)


@inner_loop
def clear_span(c, y):
    for j in range(lane(c), y.shape[0], lanes(c)):
        y[j] = const(y[j], 0)


@inner_loop
def accumulate_span(c, a, y):
    for j in range(lane(c), y.shape[0], lanes(c)):
        y[j] += a[j]


@inner_loop
def compensated_span(c, part, total, error):
    for j in range(lane(c), part.shape[0], lanes(c)):
        total[j], error[j] = compensated(total[j], error[j], part[j])


@thin
def activate(c, z, y, saved, keep, kind, p, first_row, last_row):
    """y = f(z) on a range of rows; y may be z."""
    rows, columns = last_row - first_row, z.shape[1]
    if rows > 0:
        activate_tile(
            kind,
            c,
            block(z, first_row, 0, rows, columns),
            block(y, first_row, 0, rows, columns),
            block(saved, first_row, 0, rows, columns),
            keep,
            p,
        )


@thin
def activation_backward(c, dy, saved, dz, kind, p, first_row, last_row):
    """dz = dy f'(saved) on a range of rows; dz may be dy."""
    rows, columns = last_row - first_row, dy.shape[1]
    if rows > 0:
        gradient_tile(
            kind,
            c,
            block(dy, first_row, 0, rows, columns),
            block(saved, first_row, 0, rows, columns),
            block(dz, first_row, 0, rows, columns),
            p,
        )


def weight_gradient(c, dz, x, dweight, accumulate, first_row, last_row):
    """dweight (O, I) = dzᵀ x on a range of rows; += with `accumulate`."""
    batch, none = x.shape[0], vector(row(x, 0), 0, 0)
    tiles = all_tiles(first_row, last_row, 0, x.shape[1])
    for k in range(count_tiles(c, tiles)):
        o, m, i, n = tile(c, tiles, k)
        target = block(dweight, o, i, m, n)
        matmul_tile(c, block(dz, 0, o, batch, m), True, block(x, 0, i, batch, n), False, target, accumulate, none)
