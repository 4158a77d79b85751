"""The processor's own exp, expm1, log, log1p, tanh and erf: exact to a few units in the last place over their whole
range, in vectors of every kind of processor, from polynomials that are the best of their degree."""

from dataclasses import replace

import functions
import minimax
import numpy as np
import pytest
from numba import types
from processors import NARROWER, run_as

from fusedmlp.backends.cpu import mathematics
from fusedmlp.backends.cpu.machine import X86


@pytest.mark.parametrize("worst", [functions.worst_in_float32, functions.worst_in_float64])
@pytest.mark.parametrize("name", functions.ULPS)
def test_error(name, worst):
    error, where = worst(name)
    assert error <= functions.ULPS[name], where


@pytest.mark.skipif(not X86, reason="reads x86 assembly")
@pytest.mark.parametrize("scalar", [types.float32, types.float64], ids=str)
def test_loops_are_over_vectors(scalar):
    functions.check_loops(scalar)


@pytest.mark.slow
@NARROWER
def test_narrower_vectors(processor, tmp_path):
    run_as(processor, "functions.py", tmp_path)


@pytest.mark.parametrize("scalar", mathematics.FORMATS, ids=str)
@pytest.mark.parametrize("name", minimax.NAMES)
def test_coefficients(name, scalar):
    """They are those of the minimax polynomial, beside rounding."""
    coefficients, error = minimax.polynomial(name, scalar.bitwidth)
    written = getattr(mathematics.FORMATS[scalar], name.lower())
    np.testing.assert_allclose(written, [float(c) for c in coefficients], rtol=1e-8 if scalar.bitwidth == 32 else 1e-15)
    assert error / minimax.ROUNDOFF[scalar.bitwidth] < 0.25


def test_planted_coefficient_is_seen(monkeypatch):
    """The least change that counts."""
    form = mathematics.FLOAT32
    wrong = replace(form, exp=(form.exp[0] * (1 + 1e-5), *form.exp[1:]))
    monkeypatch.setitem(mathematics.FORMATS, types.float32, wrong)
    assert functions.worst_in_float32("exp")[0] > 10


def test_planted_call_is_seen():
    """A loop over the C library's tanh."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "span", lambda rule, what, scalar: ".LBB0_1:\n\tcallq\t*%rax\n\tjne\t.LBB0_1\n")
        with pytest.raises(AssertionError, match="calls in a loop"):
            functions.check_loops(types.float32)
