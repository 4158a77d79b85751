"""Long sums. Thousands of terms of one sign that are added one by one to a large sum are all rounded the same way; so
terms are added up in stretches, and the stretches with compensation (Kahan, Communications of the ACM 8, 1965)."""

from fusedmlp.kernels.vocabulary import const, finite

STRETCH = 64  # terms that one lane adds up by themselves


def compensated(total, error, part):
    """(total, error) after adding `part`; `error` is what rounding has added to the total so far. Where the total is
    infinite or NaN there is nothing to compensate."""
    term = part - error
    grown = total + term
    error = (grown - total) - term
    return grown, (error if finite(error) else const(error, 0))
