"""How Numba is asked to compile: which functions become part of their callers, and when Python looks for garbage."""

import gc
import re
from contextlib import suppress

import numpy as np
import pytest
from numba import njit, types
from numba.core.inline_closurecall import InlineWorker

import processes
from fusedmlp.backends.cpu.compiling import CALLED, ENTRY, INLINED, _Uncollected


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


@njit(**ENTRY)
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
    """And the attribute by which it is told what precedes inlining: without that all works, and compiles longer."""
    both(np.ones(2), 1.0)
    names = " ".join(both.get_metadata(both.signatures[0])["pipeline_times"]["nopython"])
    assert "inline_one_by_one" in names and "inline_inlinables" not in names
    assert hasattr(InlineWorker(*[None] * 6), "_compiler_pipeline")


@njit(**CALLED)
def extent(values):
    """Two loops, for which it stays a function."""
    least, most = values[0], values[0]
    for value in values:
        least = min(least, value)
    for value in values:
        most = max(most, value)
    return most - least


@njit(**ENTRY)
def wider(left, right):
    return max(extent(left), extent(right))


def of_extent(caller):
    """What `extent` is in the code of that caller: (its linkage and what it returns, how many parameters it has)."""
    (code,) = caller.inspect_llvm().values()
    (found,) = re.findall(r"^define (.*)@[^(]*extent[^(]*\((.*)\)", code, re.MULTILINE)
    return found[0], found[1].count(",") + 1


def test_what_an_entry_calls_is_its_own():
    """So it is handed only what it uses. By itself it takes all of an array's seven words."""
    assert wider(np.arange(3.0), np.arange(-2.0, 2.0)) == 3.0
    (kept, few), (shared, many) = of_extent(wider), of_extent(extent)
    assert "internal" in kept and "internal" not in shared
    assert few <= many - 3


def test_only_an_entry_becomes_machine_code():
    """What it calls is optimized as part of it, and nowhere else; what has a loop stays a function."""

    @njit(**CALLED)
    def increase(values):
        for i in range(values.shape[0]):
            values[i] += 1.0

    @njit(**ENTRY)
    def increased(values):
        increase(values)

    increase.compile((types.Array(types.float64, 1, "C"),))
    (made,) = increase.overloads.values()
    assert not made.library.codegen._engine.is_symbol_defined(made.fndesc.llvm_func_name)
    values = np.arange(100.0)
    increased(values)
    assert np.array_equal(values, np.arange(1.0, 101.0))
    (within,), (by_itself,) = (function.inspect_llvm().values() for function in (increased, increase))
    vectors = r"fadd .*<\d+ x double>"
    assert re.search(vectors, within) and not re.search(vectors, by_itself)
    assert re.search(r"^define internal .*increase", within, re.MULTILINE)


PRINTS = """
import numpy as np
from numba import njit
from fusedmlp.backends.cpu.compiling import CALLED, ENTRY

@njit(**CALLED)
def halfway(n):
    print("on the way", n)

@njit(**ENTRY)
def entry(n):
    halfway(n)

entry(3)
"""


def test_a_body_can_print():
    """Which whoever looks for a fault in one wants: what is called has its environment."""
    assert processes.python(PRINTS) == "on the way 3\n"


def test_an_exception_comes_from_within():
    @njit(**CALLED)
    def refuse(n):
        if n > 2:
            raise ValueError("too many")

    @njit(**ENTRY)
    def entry(n):
        refuse(n)

    entry(2)
    with pytest.raises(ValueError, match="too many"):
        entry(3)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_afterwards_what_it_was(enabled):
    """After compilations that overlap, one that failed, and in a child that is forked within one."""
    uncollected, before = _Uncollected(), gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(ZeroDivisionError), uncollected:
            with uncollected:
                assert not gc.isenabled()
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() is enabled
        uncollected.__enter__()
        assert not gc.isenabled()
        uncollected._leave_all()
        assert gc.isenabled() is enabled
        with uncollected:
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
