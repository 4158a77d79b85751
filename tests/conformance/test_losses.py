"""Every loss: value and gradient in one call, by reduction, form of the target, and sample weights."""

import numpy as np
import pytest

import oracle
from oracle import LOSS_CASES, LOSS_FORMS, LOSSES, REDUCTIONS, Case
from tolerance import evaluation

SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1), (7, 5), (33, 10), (2, 101), (0, 4), (513, 3), (64, 1009)], ids=oracle.extent
)
FORMS = pytest.mark.parametrize("case, form", LOSS_FORMS, ids=str)
WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
REDUCED = pytest.mark.parametrize("reduction", REDUCTIONS)


def check(backend, case, prediction, target, **options):
    got = getattr(backend, case.name)(prediction, target, **case.options, **options)
    expected = oracle.loss(case, prediction, target, **options)
    for name, array, right in zip(("loss", "gradient"), got, expected, strict=True):
        right.check(array, name)
    return got


def weights(rows, rng, dtype):
    """Uneven, and some of them zero."""
    return (rng.random(rows) * (rng.random(rows) > 0.2) + (np.arange(rows) == 0)).astype(dtype)


@pytest.mark.parametrize("columns", [10, 37, 1100], ids=str)  # the last more than the CPU adds up without compensation
def test_cross_entropy_of_a_row_by_itself(backend, dtype, columns, rng):
    """Is what it is among others, to the bit: rows that are reduced together do not mix."""
    logits, classes = (3 * rng.normal(size=(33, columns))).astype(dtype), rng.integers(0, columns, 33)
    losses, gradient = check(backend, Case("cross_entropy"), logits, classes, reduction="none")
    for i in (0, 15, 16, 32):
        one = slice(i, i + 1)
        alone = backend.cross_entropy(logits[one], classes[one], reduction="none")
        for among, found in zip((losses, gradient), alone, strict=True):
            assert np.asarray(found).tobytes() == np.asarray(among)[one].tobytes()


@FORMS
@REDUCED
@WEIGHTED
@SHAPES
def test_loss(backend, dtype, case, form, reduction, weighted, shape, rng):
    prediction = (3 * rng.normal(size=shape)).astype(dtype)
    target = oracle.target(form, *shape, rng, dtype)
    sample_weight = weights(shape[0], rng, dtype) if weighted else None
    check(backend, case, prediction, target, reduction=reduction, sample_weight=sample_weight)


@FORMS
def test_loss_defaults_to_the_plain_mean(backend, dtype, case, form, rng):
    prediction = rng.normal(size=(7, 5)).astype(dtype)
    target = oracle.target(form, 7, 5, rng, dtype)
    got = getattr(backend, case.name)(prediction, target, **case.options)
    for array, right in zip(got, oracle.loss(case, prediction, target), strict=True):
        right.check(array)


@FORMS
def test_loss_of_extreme_finite_predictions(backend, dtype, case, form, rng):
    """Logits of 0, +-1e4 and around exp's range: finite, without clipping."""
    values = np.array([0, 1e4, -1e4, 89, -89, 20, -104, 705], dtype)
    prediction = np.stack([np.roll(values, shift) for shift in range(len(values))] + [np.zeros_like(values)])
    target = oracle.target(form, *prediction.shape, rng, dtype)
    for array in check(backend, case, prediction, target, reduction="none"):
        assert np.isfinite(array).all()


REGRESSION = [case for case in LOSS_CASES if LOSSES[case.name].forms == ("values",)]


@pytest.mark.parametrize("case", REGRESSION, ids=str)
def test_loss_special_values(backend, dtype, case):
    prediction = np.array([[0, np.inf, -np.inf, 1e4, -1e4, 0.5, 0.25]], dtype)
    check(backend, case, prediction, np.full_like(prediction, 0.25), reduction="none")


def test_cross_entropy_special_rows(backend, dtype):
    """+inf in a row, or all -inf, gives NaN; a class of -inf has probability 0, its loss is infinite."""
    inf, nan = np.inf, np.nan
    logits = np.array([[inf, 0, 1], [-inf] * 3, [-inf, 0, 1], [-inf, 0, 1], [nan, 0, 1], [0, 1, 2]], dtype)
    check(backend, Case("cross_entropy"), logits, np.array([1, 0, 2, 0, 1, 1]), reduction="none")


def test_binary_cross_entropy_special_values(backend, dtype):
    """The gradient sigma(z) - t holds at infinite logits too; NaN stays where it is."""
    case = Case("binary_cross_entropy_with_logits")
    logits = np.array([[np.inf, -np.inf, np.nan, 0], [np.inf, -np.inf, np.nan, 0]], dtype)
    target = np.array([[0] * 4, [1] * 4], dtype)
    _, gradient = oracle.loss(case, logits, target, reduction="none")
    value, got = backend.binary_cross_entropy_with_logits(logits, target, reduction="none")
    gradient.check(got, "gradient")
    assert np.array_equal(np.isnan(value[:, 2:]), [[True, False]] * 2)


@FORMS
def test_loss_passes_nan_on(backend, dtype, case, form, rng):
    """A NaN prediction reaches the reduced loss, its own row's gradient and nothing else.

    For mae too, where PyTorch's sign(NaN) is 0 and hides it.
    """
    prediction, target = rng.normal(size=(6, 3)).astype(dtype), oracle.target(form, 6, 3, rng, dtype)
    prediction[4, 1] = np.nan
    loss, gradient = getattr(backend, case.name)(prediction, target, **case.options)
    assert np.isnan(loss)
    whole_row = LOSSES[case.name].scope == "row"
    assert np.argwhere(np.isnan(gradient)).tolist() == [[4, j] for j in ((0, 1, 2) if whole_row else (1,))]


OUTSIDE = {"int64": (-1, 5, -(2**63), 2**40), "uint8": (255,), "uint64": (2**63, 2**64 - 1)}


@pytest.mark.device("the host looks at the indices before it launches anything")
@pytest.mark.parametrize("index, wrong", [(index, wrong) for index in OUTSIDE for wrong in OUTSIDE[index]])
@REDUCED
def test_cross_entropy_of_a_class_that_is_none(backend, dtype, index, wrong, reduction, rng):
    """NaN in its row and in what is summed over it; the other rows are what they would be."""
    logits, labels = rng.normal(size=(7, 5)).astype(dtype), rng.integers(0, 5, 7).astype(index)
    right = oracle.loss(Case("cross_entropy"), logits, labels, reduction)
    labels[4] = wrong
    loss, gradient = backend.cross_entropy(logits, labels, reduction=reduction)
    others = [0, 1, 2, 3, 5, 6]
    right[1][others].check(gradient[others], "gradient")
    assert np.isnan(gradient[4]).all()
    if reduction == "none":
        right[0][others].check(loss[others], "loss")
        assert np.isnan(loss[4])
    else:
        assert np.isnan(loss)


@pytest.mark.parametrize("index", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_cross_entropy_takes_any_integer_index(backend, dtype, index, rng):
    logits = rng.normal(size=(7, 5)).astype(dtype)
    check(backend, Case("cross_entropy"), logits, rng.integers(0, 5, 7).astype(index))


def test_cross_entropy_forms_agree(backend, dtype, rng):
    """Class indices and the one-hot rows that mean the same."""
    logits, labels = rng.normal(size=(9, 4)).astype(dtype), rng.integers(0, 4, 9)
    by_index = backend.cross_entropy(logits, labels)
    by_row = backend.cross_entropy(logits, np.eye(4, dtype=dtype)[labels])
    for one, other in zip(by_index, by_row, strict=True):
        oracle.Expected(one.astype(np.float64), evaluation(dtype, 4.0), dtype).check(other)


@FORMS
@REDUCED
@WEIGHTED
def test_loss_central_differences(backend, case, form, reduction, weighted, rng):
    prediction = rng.normal(size=(3, 4))
    target = oracle.target(form, 3, 4, rng, np.float64)
    options = {
        "reduction": reduction,
        "sample_weight": weights(3, rng, np.float64) if weighted else None,
        **case.options,
    }
    kernel, step = getattr(backend, case.name), 1e-5
    numerical = oracle.numerical_gradient(lambda array: kernel(array, target, **options)[0].sum(), prediction, step)
    bound = 4 * step**2 + evaluation(np.float64, 100.0) / step
    expected = oracle.Expected(numerical, np.full((3, 4), bound), np.dtype("float64"))
    expected.check(kernel(prediction, target, **options)[1], "gradient")


@FORMS
def test_loss_of_long_equal_rows(backend, dtype, case, form, compiled, rng):
    """Equal terms are all rounded the same way: added up one by one, 100,000 of them would be off by 1e-3."""
    columns = 100_000 if compiled else 1_000
    prediction = np.full((1, columns), 0.3, dtype)
    target = oracle.target(form, 1, columns, rng, dtype)
    loss, gradient = getattr(backend, case.name)(prediction, target, **case.options)
    expected_loss, expected = oracle.loss(case, prediction, target)
    few = 200 * np.finfo(dtype).eps  # far from `columns` times
    np.testing.assert_allclose(loss, expected_loss.value, rtol=few)
    np.testing.assert_allclose(gradient, expected.value, rtol=few, atol=few * np.abs(expected.value).max())
