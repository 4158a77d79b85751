"""Sums and greatest numbers of rows. Thousands of terms of one sign that are added one by one to a large sum are all
rounded the same way; so terms are added up in stretches, and the stretches with compensation (Kahan, Communications of
the ACM 8, 1965)."""

from fusedmlp.kernels.vocabulary import (
    const,
    finite,
    inner_loop,
    row,
    row_max,
    row_sum,
    rows_exp,
    stretch_exp,
    stretch_length,
    stretch_max,
    stretch_sum,
    sync_lanes,
    thin,
    vector,
)

STRETCH = 64  # terms that one lane, of a worker or of its vectors, adds up by themselves


def compensated(total, error, part):
    """(total, error) after adding `part`; `error` is what rounding has added to the total so far. Where the total is
    infinite or NaN there is nothing to compensate."""
    term = part - error
    grown = total + term
    error = (grown - total) - term
    return grown, (error if finite(error) else const(error, 0))


@thin
def stretch(c, a, start):
    """The elements of a row from `start` on that are added up before they are compensated."""
    return vector(a, start, min(stretch_length(c), a.shape[0] - start))


def row_total(c, a):
    """The sum of a row, the lanes of the worker together."""
    total, error = const(a[0], 0), const(a[0], 0)
    for start in range(0, a.shape[0], stretch_length(c)):
        part = stretch_sum(c, stretch(c, a, start))
        if start == 0:
            total = part
        else:
            total, error = compensated(total, error, part)
    return row_sum(c, total, a.shape[0])


@inner_loop
def row_exponentials(c, z, m, y):
    """y = exp(z - m), where m is the row's greatest element; their sum s. The row's log-sum-exp is m + log(s).
    A row with +inf, all of -inf, or with NaN gives a NaN s, as PyTorch's softmax does. y may be z."""
    total, error = const(m, 0), const(m, 0)
    for start in range(0, z.shape[0], stretch_length(c)):
        part = stretch_exp(c, stretch(c, z, start), m, stretch(c, y, start))
        if start == 0:
            total = part
        else:
            total, error = compensated(total, error, part)
    return row_sum(c, total, z.shape[0])


@thin
def rows_exponentials(c, z, m, y, s):
    """The same of each row of the blocks z and y, m[i] and s[i] being those of row i; short rows together. All lanes
    meet before it returns."""
    if z.shape[1] <= stretch_length(c):
        rows_exp(c, z, m, y, s)
    else:
        for i in range(z.shape[0]):  # all lanes know what they write here, and it is the same
            s[i] = row_exponentials(c, row(z, i), m[i], row(y, i))
        sync_lanes(c)


def row_greatest(c, a):
    """The greatest element of a row, the lanes of the worker together; of a row with NaN, any number."""
    m = a[0]
    for start in range(0, a.shape[0], stretch_length(c)):
        part = stretch_max(c, stretch(c, a, start))
        m = m if m >= part else part
    return row_max(c, m, a.shape[0])
