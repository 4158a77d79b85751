"""The bodies of a loss over the rows of a batch: value and gradient together.

Shapes: prediction or logits a (B, C), truth (B, C) or class indices (B,), gradient (B, C), losses (B, 1), or
more rows, for each row's loss or (B, C) for each element's, weights (B,) or empty for ones.
"""

from fusedmlp.kernels.choice import Choice, gradient, indices, probabilities, value
from fusedmlp.kernels.losses import row_factor
from fusedmlp.kernels.summation import row_total
from fusedmlp.kernels.vocabulary import (
    block,
    double,
    double_sum,
    lane,
    lanes,
    row,
    thin,
    tile_columns,
    vector,
)


@thin
def loss_elements(c, a, truth, labels, da, losses, weights, factor, p, first_row, last_row):
    each = losses.shape[1] > 1
    for i in range(first_row, last_row):
        w = row_factor(weights, factor, i)
        if each:
            loss_each_span(c, row(a, i), row(truth, i), row(da, i), row(losses, i), w, p)
        else:
            losses[i, 0] = w * loss_span(c, row(a, i), row(truth, i), row(da, i), w, p)


def loss_span(c, a, t, da, w, p):
    """The sum of the row's losses, and its gradient, in whose place the losses are before."""
    for j in range(lane(c), a.shape[0], lanes(c)):
        da[j] = value(a[j], t[j], p)
    total = row_total(c, da)
    for j in range(lane(c), a.shape[0], lanes(c)):
        da[j] = w * gradient(a[j], t[j], p)
    return total


def loss_each_span(c, a, t, da, losses, w, p):
    for j in range(lane(c), a.shape[0], lanes(c)):
        losses[j] = w * value(a[j], t[j], p)
        da[j] = w * gradient(a[j], t[j], p)


BLOCK = 4096  # elements, which stay in a first-level cache from one pass over them to the next


@thin
def loss_rows(c, a, truth, labels, da, losses, weights, factor, p, first_row, last_row):
    """A block of rows at a time, no more than have room in scratch for a few numbers each (kernels/losses.py)."""
    columns = a.shape[1]
    most = min(tile_columns(c), max(1, BLOCK // columns))
    for first in range(first_row, last_row, most):
        n = min(most, last_row - first)
        z, d, of_rows = block(a, first, 0, n, columns), block(da, first, 0, n, columns), block(losses, first, 0, n, 1)
        w = vector(weights, first, n) if weights.shape[0] > 0 else weights
        if labels.shape[0] > 0:
            indices(c, z, vector(labels, first, n), d, of_rows, w, factor)
        else:
            probabilities(c, z, block(truth, first, 0, n, columns), d, of_rows, w, factor)


# loss_tile(kind, c, a, truth, labels, da, losses, weights, factor, p, first_row, last_row): each row's loss times
# factor and weight, and its gradient.
loss_tile = Choice(
    "losses",
    lambda rule: loss_elements if rule.scope == "element" else loss_rows,
    lambda rule: (
        {"value": rule.value, "gradient": rule.gradient}
        if rule.scope == "element"
        else {"probabilities": rule.probabilities, "indices": rule.indices}
    ),
)


def total_loss(c, losses, rows):
    """The sum of the rows' losses in float64, known to each lane of one worker: the one place where float32 work is
    summed in float64, a few hundred additions a step."""
    part = 0.0
    for i in range(lane(c), rows, lanes(c)):
        part += double(losses[i, 0])
    return double_sum(c, part, rows)
