"""The dense layer with every activation: forward, backward, and both at once."""

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATION_CASES, Case
from tolerance import evaluation

ALL = pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
# (B, I, O): ones, primes, a second and ragged tile in each dimension, each size 0, narrow, wide, deep sums; the last of
# the large ones is what a GPU leaves to a library.
SMALL = [(1, 1, 1), (7, 13, 5), (17, 19, 23), (1, 9, 33), (33, 1, 9), (0, 4, 3), (3, 0, 4), (3, 4, 0)]
LARGE = [(67, 129, 101), (5, 784, 33), (130, 5, 257), (3, 17, 1031), (64, 64, 64), (300, 2, 1), (257, 131, 127)]
SHAPES = pytest.mark.parametrize("shape", SMALL + LARGE, ids=oracle.extent)
BIAS = pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "nobias"])


def operands(shape, rng, dtype, with_bias=True):
    rows, inputs, outputs = shape
    sizes = (rows, outputs), (rows, inputs), (outputs, inputs), (outputs,)
    dy, x, weight, bias = (rng.normal(size=size).astype(dtype) for size in sizes)
    return dy, x, weight, bias if with_bias else None


def saved_for(x, weight, bias, case):
    z, _ = oracle.preactivation(x, weight, bias)
    return oracle.saved(z, case, fm.activations.get(case.name).saves, x.dtype)


def check_gradients(got, dy, x, weight, bias, case):
    expected = oracle.dense_backward(dy, x, weight, bias, case)
    for name, gradient, right in zip(("dx", "dweight", "dbias"), got, expected, strict=True):
        right.check(gradient, name)


@ALL
@SHAPES
@BIAS
def test_dense_forward(backend, dtype, case, shape, with_bias, rng):
    _, x, weight, bias = operands(shape, rng, dtype, with_bias)
    y, z = oracle.dense_forward(x, weight, bias, case)
    got, saved = backend.dense_forward(x, weight, bias, case.rule(fm.activations), return_saved=True)
    y.check(got, "y")
    if fm.activations.get(case.name).saves == "output":
        assert saved is got
    else:
        z.check(saved, "saved")
    again = backend.dense_forward(x, weight, bias, case.rule(fm.activations))
    np.testing.assert_array_equal(again, got, strict=True)


@ALL
@SHAPES
def test_dense_backward(backend, dtype, case, shape, rng):
    dy, x, weight, bias = operands(shape, rng, dtype)
    saved, rule = saved_for(x, weight, bias, case), case.rule(fm.activations)
    got = backend.dense_backward(dy, x, weight, saved, rule)
    check_gradients(got, dy, x, weight, bias, case)
    dx, *rest = backend.dense_backward(dy, x, weight, saved, rule, need_dx=False)
    assert dx is None
    for gradient, same in zip(rest, got[1:], strict=True):
        np.testing.assert_array_equal(gradient, same, strict=True)


@ALL
def test_dense_is_forward_and_backward(backend, dtype, case, rng):
    dy, x, weight, bias = operands((7, 13, 5), rng, dtype)
    rule = case.rule(fm.activations)
    y, backprop = backend.dense(x, weight, bias, rule)
    again, saved = backend.dense_forward(x, weight, bias, rule, return_saved=True)
    np.testing.assert_array_equal(y, again, strict=True)
    for got, expected in zip(backprop(dy), backend.dense_backward(dy, x, weight, saved, rule), strict=True):
        np.testing.assert_array_equal(got, expected, strict=True)


@ALL
def test_dense_central_differences(backend, case, rng):
    """dx, dweight and dbias against differences of the same backend's forward pass."""
    dy, x, weight, bias = operands((3, 4, 3), rng, np.float64)
    rule, step = case.rule(fm.activations), 1e-5

    def objective(x=x, weight=weight, bias=bias):
        return (dy * backend.dense_forward(x, weight, bias, rule)).sum()

    _, backprop = backend.dense(x, weight, bias, rule)
    largest = max(np.abs(x).max(), np.abs(weight).max(), 1.0)
    bound = np.abs(dy).sum() * (largest**3 * step**2 + evaluation(x.dtype, 8.0) / step)
    for got, (name, leaf) in zip(backprop(dy), {"x": x, "weight": weight, "bias": bias}.items(), strict=True):
        numerical = oracle.numerical_gradient(lambda array, name=name: objective(**{name: array}), leaf, step)
        oracle.Expected(numerical, np.full(leaf.shape, bound), leaf.dtype).check(got, "d" + name)


@ALL
def test_dense_passes_nan_and_infinity_on(backend, dtype, case, rng):
    """A NaN or an infinity in one row of x reaches that row of y as PyTorch has it, and no other row."""
    _, x, weight, bias = operands((9, 7, 5), rng, dtype)
    clean = backend.dense_forward(x, weight, bias, case.rule(fm.activations))
    x[2, 3], x[5, 0] = np.nan, np.inf
    got = backend.dense_forward(x, weight, bias, case.rule(fm.activations))
    z, _ = oracle.preactivation(x, weight, bias)
    for row in (2, 5):
        oracle.activate(z[row : row + 1].astype(dtype), case).check(got[row : row + 1], f"y of row {row}")
    others = [row for row in range(9) if row not in (2, 5)]
    np.testing.assert_array_equal(got[others], clean[others])


@pytest.mark.parametrize("case", [Case("sigmoid"), Case("gelu"), Case("softmax")], ids=str)
def test_dense_large_inputs_saturate(backend, dtype, case, rng):
    """z of +-1e4 and beyond: finite values and gradients, equal to the oracle's."""
    dy, x, weight, bias = operands((5, 7, 6), rng, dtype)
    x *= 1e4
    y, _ = oracle.dense_forward(x, weight, bias, case)
    y.check(backend.dense_forward(x, weight, bias, case.rule(fm.activations)), "y")
    got = backend.dense_backward(dy, x, weight, saved_for(x, weight, bias, case), case.rule(fm.activations))
    check_gradients(got, dy, x, weight, bias, case)


def test_bias_gradient_of_many_equal_rows(backend, dtype, compiled):
    """The column sums of 100,000 equal numbers, which added up one by one would be off by 1e-4 of their sum."""
    rows = 100_000 if compiled else 2_000
    dy, x = np.full((rows, 3), 0.1, dtype), np.ones((rows, 1), dtype)
    _, _, dbias = backend.dense_backward(dy, x, np.ones((3, 1), dtype), dy, "identity")
    np.testing.assert_allclose(dbias, rows * float(dy[0, 0]), rtol=100 * np.finfo(dtype).eps)
