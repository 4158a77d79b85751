"""Functions that become part of their callers, and those that they call in turn."""

import numpy as np
from numba import njit

from fusedmlp.backends.cpu.compiling import INLINED, OPTIONS


@njit(**INLINED)
def least(a, b):
    m = b
    if a < b:
        m = a
    return m


@njit(**INLINED)
def total(values, limit):
    m = 0.0
    for value in values:
        m += least(value, limit)
    for value in values:
        m += least(limit, value)
    return m


@njit(**OPTIONS)
def both(values, limit):
    m = total(values, limit)
    return least(m, 100.0), total(values[::2], m)


def test_nested_calls_become_part_of_their_caller():
    """With the right variables, though all have one by the same name; nothing is compiled but the caller."""
    values = np.array([1.0, 5.0, -2.0, 7.0])
    first = 2 * np.minimum(values, 3.0).sum()
    assert both(values, 3.0) == (first, 2 * np.minimum(values[::2], first).sum())
    assert len(both.overloads) == 1
    assert not least.overloads and not total.overloads


def test_numba_has_the_pass_that_is_replaced():
    """Where a version of Numba has another name for it, everything works, and takes longer to compile."""
    both(np.ones(2), 1.0)
    names = " ".join(both.get_metadata(both.signatures[0])["pipeline_times"]["nopython"])
    assert "inline_one_by_one" in names and "inline_inlinables" not in names
