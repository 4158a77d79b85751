"""Every activation alone: value and gradient, ordinary, special and extreme inputs."""

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATION_CASES, ACTIVATIONS, Case
from tolerance import evaluation

ALL = pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1), (7, 13), (2, 101), (0, 5), (4, 0), (129, 67), (3, 2053)], ids=oracle.extent
)
# Finite: both sides of softplus' thresholds, of float32's and float64's range of exp, zeros, the extremes.
FINITE = [
    0.0,
    -0.0,
    1e-6,
    -1e-6,
    1e-30,
    -1e-30,
    5.9,
    6.1,
    19.9,
    20.1,
    -20.0,
    60.0,
    -60.0,
    87.0,
    -87.0,
    89.0,
    -89.0,
]
FINITE += [705.0, -705.0, 1e4, -1e4]
INFINITE = [np.inf, -np.inf, np.nan]


def saves(case):
    return fm.activations.get(case.name).saves


def column(values, dtype):
    """One value a row, so that no row-wise activation mixes them, beside a second column of ones."""
    values = np.array(values, dtype)
    return np.stack([values, np.ones_like(values)], axis=1)


@ALL
@SHAPES
def test_activate(backend, dtype, case, shape, rng):
    z = (3 * rng.normal(size=shape)).astype(dtype)
    oracle.activate(z, case).check(backend.activate(z, case.rule(fm.activations)), "y")


@ALL
@SHAPES
def test_activation_backward(backend, dtype, case, shape, rng):
    z, dy = ((scale * rng.normal(size=shape)).astype(dtype) for scale in (3, 1))
    saved = oracle.saved(z, case, saves(case), z.dtype)
    dz = backend.activation_backward(dy, saved, case.rule(fm.activations))
    oracle.activation_backward(dy, z, case).check(dz, "dz")


@ALL
def test_activate_special(backend, dtype, case):
    z = column(FINITE + INFINITE, dtype)
    oracle.activate(z, case).check(backend.activate(z, case.rule(fm.activations)), "y")


@ALL
def test_activation_backward_special(backend, dtype, case, rng):
    # PyTorch's own loops disagree about elu'(NaN): its vector path gives NaN, its scalar path 1.
    z = column(FINITE + (INFINITE[:2] if case.name == "elu" else INFINITE), dtype)
    dy = rng.normal(size=z.shape).astype(dtype)
    dz = backend.activation_backward(dy, oracle.saved(z, case, saves(case), z.dtype), case.rule(fm.activations))
    oracle.activation_backward(dy, z, case).check(dz, "dz")


@ALL
@pytest.mark.parametrize("special", INFINITE, ids=str)
def test_activation_backward_special_upstream(backend, dtype, case, special, rng):
    """Where the slope is not 0: in PyTorch's relu a dead unit swallows what `dy * 0` would pass on."""
    z, dy = (rng.normal(size=(4, 3)).astype(dtype) for _ in range(2))
    z[1, 2], dy[1, 2] = 0.5, special
    dz = backend.activation_backward(dy, oracle.saved(z, case, saves(case), z.dtype), case.rule(fm.activations))
    oracle.activation_backward(dy, z, case).check(dz, "dz")


@ALL
def test_activation_central_differences(backend, case, rng):
    """The gradient against differences of the same backend's values, which know no formula for it."""
    z, dy = rng.normal(size=(2, 3, 4))
    z[np.abs(z) < 1e-3] = 0.5
    rule, step = case.rule(fm.activations), 1e-5
    numerical = oracle.numerical_gradient(lambda z: (dy * backend.activate(z, rule)).sum(), z, step)
    dz = backend.activation_backward(dy, oracle.saved(z, case, saves(case), z.dtype), rule)
    # No third derivative here exceeds 4 by much (softplus with beta 2: 0.5, tanh: 2); values are below 4.
    bound = np.abs(dy).sum() * (step**2 + evaluation(z.dtype, 4.0) / step)
    oracle.Expected(numerical, np.full_like(z, bound), z.dtype).check(dz, "dz")


@pytest.mark.parametrize("kernel", ["softmax", "log_softmax"])
@SHAPES
def test_softmax_kernels(backend, dtype, kernel, shape, rng):
    z = (3 * rng.normal(size=shape)).astype(dtype)
    oracle.activate(z, Case(kernel)).check(getattr(backend, kernel)(z), kernel)


@pytest.mark.parametrize("kernel", ["softmax", "log_softmax"])
def test_softmax_kernels_special_rows(backend, dtype, kernel):
    inf, nan = np.inf, np.nan
    rows = [
        [inf, 0, 1],
        [-inf] * 3,
        [-inf, 0, 1],
        [nan, 0, 1],
        [1e4, -1e4, 0],
        [-1e4] * 3,
        [1e4, 1e4, 1e4 - 1],
        [0] * 3,
    ]
    z = np.array(rows, dtype)
    oracle.activate(z, Case(kernel)).check(getattr(backend, kernel)(z), kernel)


def test_softmax_rows_sum_to_one(backend, dtype, rng):
    z = (20 * rng.normal(size=(9, 37))).astype(dtype)
    total = backend.softmax(z).astype(np.float64).sum(1)
    assert np.abs(total - 1).max() < evaluation(dtype, 2.0)


@ALL
def test_record_states_its_rule(case):
    record = fm.activations.get(case.name)
    assert record.name == case.name
    assert record.saves in ("output", "preactivation")
    assert record.scope == ACTIVATIONS[case.name].scope


def test_output_that_lost_the_sign_is_never_saved():
    """gelu and silu fall and rise again: their value does not tell the slope."""
    for name in ("gelu", "gelu_tanh", "silu"):
        assert fm.activations.get(name).saves == "preactivation"


def test_softmax_of_thousands_of_equal_small_terms(backend):
    """One large term and 4,999 small ones: added one by one in float32, all would be rounded the same way."""
    z = np.full((1, 5000), -16.6, np.float32)
    z[0, 0] = 0
    e = np.exp(z.astype(np.float64))
    np.testing.assert_allclose(backend.softmax(z), e / e.sum(), rtol=64 * 2**-24)
