"""The comparator can fail: planted faults, gross and small, at the tolerances that the conformance rows use.

Each fault stands beside the right computation, in NumPy, which must pass: a tolerance that refuses everything
would catch every fault.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf, expit

import oracle
from oracle import Case
from tolerance import assert_close, growth

F32 = np.dtype("float32")


def tf32(array):
    """The ten explicit bits of mantissa that tf32 keeps, rounded to nearest."""
    bits = array.view(np.uint32) + np.uint32(0x1000)
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def gelu(z):
    return (0.5 * z * (1 + erf(z * np.float32(np.sqrt(0.5))))).astype(z.dtype)


def gelu_tanh(z):
    return (0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))).astype(z.dtype)


def normal(rng, *shapes, dtype=F32):
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def dense_case(rng, shape=(17, 19, 23), activation="identity"):
    rows, inputs, outputs = shape
    x, weight, bias = normal(rng, (rows, inputs), (outputs, inputs), outputs)
    return x, weight, bias, oracle.dense_forward(x, weight, bias, Case(activation))[0]


def transposed_weight(rng):
    x, weight, bias, y = dense_case(rng, (17, 19, 19))
    return y, x @ weight.T + bias, x @ weight + bias


def missing_bias(rng):
    x, weight, bias, y = dense_case(rng)
    return y, x @ weight.T + bias, x @ weight.T


def wrong_sign(rng):
    x, weight, bias, _ = dense_case(rng)
    (dy,) = normal(rng, (17, 23))
    y = np.tanh(x @ weight.T + bias)
    dweight = oracle.dense_backward(dy, x, weight, bias, Case("tanh"))[1]
    return dweight, (dy * (1 - y * y)).T @ x, (dy * (1 + y * y)).T @ x


def unmasked_tail(rng):
    """Rows in tiles of 16: the last, ragged one counts its padding, where sigmoid(0) = 0.5, as gradient."""
    x, weight, bias, _ = dense_case(rng)
    (dy,) = normal(rng, (17, 23))
    y = expit(x @ weight.T + bias)
    dbias = oracle.dense_backward(dy, x, weight, bias, Case("sigmoid"))[2]
    right = (dy * y * (1 - y)).sum(0)
    return dbias, right, right + np.float32(0.5)


def padded_class(rng):
    """Ten classes padded to sixteen, the padding's logits of 0 in the sum of the softmax."""
    (z,) = normal(rng, (17, 10))
    e = np.exp(z)
    return oracle.activate(z, Case("softmax")), e / e.sum(1, keepdims=True), e / (e.sum(1, keepdims=True) + 6)


def tf32_product(terms):
    def fault(rng):
        x, weight, bias, y = dense_case(rng, (64, terms, 33))
        return y, x @ weight.T + bias, tf32(x) @ tf32(weight).T + bias

    return fault


def tf32_gradient(rng):
    x, weight, bias, _ = dense_case(rng, (67, 129, 101))
    (dy,) = normal(rng, (67, 101))
    dx = oracle.dense_backward(dy, x, weight, bias, Case("identity"))[0]
    return dx, dy @ weight, tf32(dy) @ tf32(weight)


def gelu_by_tanh(rng):
    (z,) = normal(rng, (7, 13))
    return oracle.activate(z, Case("gelu")), gelu(z), gelu_tanh(z)


def gelu_by_tanh_behind_a_product(rng):
    x, weight, bias, y = dense_case(rng, activation="gelu")
    z = x @ weight.T + bias
    return y, gelu(z), gelu_tanh(z)


def sigmoid_off_by_one_constant(rng):
    (z,) = normal(rng, (7, 13))
    return oracle.activate(z, Case("sigmoid")), expit(z), (1 / (np.float32(1.00001) + np.exp(-z)))


def mse_case(rng, rows=33, outputs=10, **options):
    prediction, goal = normal(rng, (rows, outputs), (rows, outputs))
    return (*oracle.loss(Case("mse"), prediction, goal, **options), prediction - goal)


def mean_over_rows(rng):
    value, _, error = mse_case(rng)
    return value, np.mean(error**2), np.sum(error**2) / np.float32(len(error))


def mean_over_padded_rows(rng):
    """The gradient of a ragged last batch of 513 rows, divided by 514."""
    _, gradient, error = mse_case(rng, 513, 3)
    return gradient, 2 * error / np.float32(error.size), 2 * error / np.float32(error.size + 3)


def weighted_mean_over_the_rows(rng):
    share = rng.random(33).astype(F32)
    value, _, error = mse_case(rng, sample_weight=share)
    total = np.sum(error**2 * share[:, None])
    return value, total / (share.sum() * np.float32(10)), total / np.float32(error.size)


def stale_row(rng):
    """The one row of the ragged last tile is that of the tile before."""
    x, weight, bias, y = dense_case(rng)
    right = x @ weight.T + bias
    stale = right.copy()
    stale[16] = right[0]
    return y, right, stale


def adam(parameter, gradients, correct=True, corrections=np.float64):
    parameter, m, v = parameter.copy(), np.zeros_like(parameter), np.zeros_like(parameter)
    lr, one, two, eps = (np.float32(value) for value in (0.05, 0.9, 0.999, 1e-8))
    rest = [np.float32(1 - 0.9), np.float32(1 - 0.999)]
    for step, gradient in enumerate(gradients, 1):
        m = one * m + rest[0] * gradient
        v = two * v + rest[1] * gradient * gradient
        c1, c2 = (np.float32(1 - corrections(beta) ** step) if correct else np.float32(1) for beta in (0.9, 0.999))
        parameter -= lr / c1 * m / (np.sqrt(v) / np.sqrt(c2) + eps)
    return parameter


def adam_case(rng, steps, **fault):
    parameter, gradients = normal(rng, (7, 5), (steps, 7, 5))
    parameter *= 0.01
    expected = oracle.trajectory(Case("Adam", {"lr": 0.05}), parameter, gradients)[-1]
    return expected, adam(parameter, gradients), adam(parameter, gradients, **fault)


def adam_without_correction(rng):
    return adam_case(rng, 20, correct=False)


def adam_with_float32_correction(rng):
    """1 - beta2**t rounded on the way: off by 1.3e-5, half of that in the first step."""
    return adam_case(rng, 1, corrections=np.float32)


FAULTS = [
    transposed_weight, missing_bias, wrong_sign, unmasked_tail, padded_class, tf32_product(784),
    tf32_product(5), tf32_gradient, gelu_by_tanh, gelu_by_tanh_behind_a_product, sigmoid_off_by_one_constant,
    mean_over_rows, mean_over_padded_rows, weighted_mean_over_the_rows, stale_row, adam_without_correction,
    adam_with_float32_correction,
]  # fmt: skip
FAULT_NAMES = [fault.__qualname__.split(".")[0] for fault in FAULTS]


@pytest.mark.parametrize("fault", FAULTS, ids=FAULT_NAMES)
def test_planted_fault_is_caught(fault, rng):
    expected, right, wrong = fault(rng)
    expected.check(np.asarray(right, F32))
    with pytest.raises(AssertionError, match="tolerance"):
        expected.check(np.asarray(wrong, F32))


def test_tolerance_at_784_terms():
    """Between what float32 errs by (3.6e-5) and what tf32 does (0.031), on standard normal operands."""
    rng = np.random.default_rng(0)
    x, weight, bias, y = dense_case(rng, (64, 784, 128))
    right, wrong = (
        np.abs(product - y.value).max() for product in (x @ weight.T + bias, tf32(x) @ tf32(weight).T + bias)
    )
    assert right < 1e-4
    assert wrong > 0.02
    assert 10 * right < y.tolerance.min() and y.tolerance.max() < wrong / 2


def test_oracle_binary_cross_entropy_is_pytorchs(rng):
    z, t = torch.tensor(30 * rng.normal(size=(50, 4))), torch.tensor(rng.random((50, 4)))
    expected = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    torch.testing.assert_close(oracle.binary_cross_entropy(z, t), expected, rtol=1e-14, atol=1e-13)


def test_growth_is_the_smaller_bound():
    assert growth(0) == 0 and growth(1) == 1 and growth(36) == 36
    assert growth(784) == 6 * 28


VALUE = np.array([[1.0, 2.0, 3.0]])
REFUSED = {
    "value": np.array([[1.0, 2.0, 3.001]], F32),
    "nan_for_number": np.array([[1.0, np.nan, 3.0]], F32),
    "infinity_for_number": np.array([[1.0, np.inf, 3.0]], F32),
    "dtype": VALUE,
    "shape": VALUE.astype(F32)[0],
    "broadcastable_shape": np.ones((3, 3), F32),
    "list": [[1.0, 2.0, 3.0]],
}


@pytest.mark.parametrize("got", REFUSED.values(), ids=REFUSED)
def test_comparator_refuses(got):
    with pytest.raises(AssertionError):
        assert_close(got, VALUE, tolerance=1e-4, dtype=F32)


SPECIAL = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("expected", SPECIAL, ids=str)
@pytest.mark.parametrize("got", [*SPECIAL, 0.0, 3e38], ids=str)
def test_comparator_matches_specials_exactly(expected, got):
    """NaN meets NaN, an infinity the one of its sign, whatever the tolerance."""
    values = np.array([got], F32), np.array([expected])
    if np.array_equal(*values, equal_nan=True):
        assert_close(*values, tolerance=np.inf, dtype=F32)
    else:
        with pytest.raises(AssertionError):
            assert_close(*values, tolerance=np.inf, dtype=F32)


def test_comparator_names_the_worst_element():
    got, expected = np.zeros((3, 4), F32), np.zeros((3, 4))
    got[1, 2], got[2, 3] = 0.5, 0.25
    with pytest.raises(AssertionError) as caught:
        assert_close(got, expected, tolerance=0.125, dtype=F32, name="dweight")
    for word in ("dweight[1, 2]", "got 0.5", "expected 0", "0.125", "2 of 12"):
        assert word in str(caught.value)


def test_comparator_does_not_reach_below_the_smallest_normal_number():
    tiny = float(np.finfo(F32).tiny)
    assert_close(np.zeros(1, F32), np.array([0.5 * tiny]), tolerance=0.0, dtype=F32)
    with pytest.raises(AssertionError):
        assert_close(np.zeros(1, F32), np.array([2.0 * tiny]), tolerance=0.0, dtype=F32)


def test_comparator_wants_float64_and_a_finite_tolerance():
    with pytest.raises(TypeError):
        assert_close(np.zeros(1, F32), np.zeros(1, F32), tolerance=1.0, dtype=F32)
    for tolerance in (np.nan, np.inf):
        with pytest.raises(ValueError):
            assert_close(np.zeros(1, F32), np.zeros(1), tolerance=tolerance, dtype=F32)
