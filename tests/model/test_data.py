"""What people have, as what the executors take."""

import numpy as np
import pytest
import torch

from fusedmlp.kernels import losses
from fusedmlp.model import data

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
CROSS, BINARY, MSE = losses.cross_entropy, losses.binary_cross_entropy, losses.mse

NUMBERS = [[1, 0], [3, 1]]
FORMS = {
    "list": NUMBERS,
    "tuple of lists": ([1, 0], [3, 1]),
    "int64": np.array(NUMBERS),
    "uint8": np.array(NUMBERS, np.uint8),
    "float16": np.array(NUMBERS, np.float16),
    "float64": np.array(NUMBERS, float),
    "Fortran": np.asfortranarray(np.array(NUMBERS, np.float32)),
    "strided": np.repeat(np.array(NUMBERS, np.float32), 2, axis=1)[:, ::2],
    "big-endian": np.array(NUMBERS, ">f4"),
    "objects": np.array(NUMBERS, object),
    "tensor": torch.tensor(NUMBERS),
}


class Frame:
    """As much of a DataFrame as counts: NumPy asks it for an array. Columns of several kinds come as objects."""

    def __array__(self, dtype=None, copy=None):
        return np.array([[1.0, False], [np.int64(3), np.True_]], object)


@pytest.mark.parametrize("form", FORMS)
def test_inputs(dtype, form):
    rows = data.inputs(FORMS[form], 2, dtype)
    assert (rows.dtype, rows.flags.c_contiguous, rows.tolist()) == (dtype, True, NUMBERS)


def test_a_frame_with_columns_of_several_kinds(dtype):
    assert data.inputs(Frame(), 2, dtype).tolist() == [[1.0, 0.0], [3.0, 1.0]]


def test_booleans(dtype):
    assert data.inputs(np.array([[True, False]]), 2, dtype).tolist() == [[1.0, 0.0]]


def test_nothing_is_copied_that_fits(dtype):
    x = np.ones((4, 2), dtype)
    x.flags.writeable = False
    assert np.shares_memory(data.inputs(x, 2, dtype), x)


def test_one_row(dtype):
    row = data.inputs([1, 0], 2, dtype)
    assert (row.dtype, row.tolist()) == (dtype, [1.0, 0.0])
    rows = data.as_rows(row)
    assert rows.tolist() == [[1.0, 0.0]] and data.as_rows(rows) is rows


def test_not_finite_goes_through(dtype):
    assert np.isnan(data.inputs([[np.nan, np.inf]], 2, dtype)[0, 0])


def shapes(y, rows, outputs, loss, **options):
    truth, labels = data.truths(y, rows, outputs, F32, loss, **options)
    return (None if truth is None else truth.tolist()), (None if labels is None else labels.tolist())


def test_truths_of_numbers():
    assert shapes([1, 2], 2, 1, MSE) == ([[1.0], [2.0]], None)
    assert shapes([[1], [2]], 2, 1, MSE) == ([[1.0], [2.0]], None)
    assert shapes([True, False], 2, 1, BINARY) == ([[1.0], [0.0]], None)
    assert shapes([[1, 0]], 1, 2, BINARY) == ([[1.0, 0.0]], None)
    for y in (1, [1], [[1]]):
        assert shapes(y, 1, 1, MSE, one_row=True) == ([[1.0]], None)
    assert shapes([1, 2], 1, 2, MSE, one_row=True) == ([[1.0, 2.0]], None)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, np.uint64, ">i4", bool])
def test_class_indices(kind):
    truth, labels = data.truths(np.array([1, 0, 1], kind), 3, 4, F32, CROSS)
    assert truth is None
    assert (labels.dtype, labels.tolist(), labels.flags.c_contiguous) == (np.int64, [1, 0, 1], True)


def test_classes_of_one_row():
    assert shapes(2, 1, 3, CROSS, one_row=True) == (None, [2])
    assert shapes([2], 1, 3, CROSS, one_row=True) == (None, [2])
    assert shapes([0, 0, 1], 1, 3, CROSS, one_row=True) == ([[0.0, 0.0, 1.0]], None)


def test_probability_rows():
    assert shapes([[0, 1, 0], [1, 0, 0]], 2, 3, CROSS) == ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], None)
    assert shapes([[0.5, 0.5, 0]], 1, 3, CROSS) == ([[0.5, 0.5, 0.0]], None)


BAD_X = [
    ([["a", "b"]], TypeError, ["x", "numbers", "list"]),
    ([[1, 2], [3]], TypeError, ["x", "numbers"]),
    (np.array([[1j, 2]]), TypeError, ["x", "complex128"]),
    (np.array([["1", "2"]], object), TypeError, ["x", "object"]),
    (None, TypeError, ["x", "NoneType"]),
    (object(), TypeError, ["x", "object"]),
    (torch.ones(3, 2, requires_grad=True), TypeError, ["x", "Tensor", "detach"]),
    (np.array([["2026-01-01"]], "datetime64[D]"), TypeError, ["x", "datetime64"]),
    (np.ones((3, 3)), ValueError, ["x", "(3, 3)", "(N, 2)"]),
    (np.ones(3), ValueError, ["x", "(3,)", "(2,)"]),
    (np.ones((1, 3, 2)), ValueError, ["x", "(1, 3, 2)", "(N, 2)"]),
    (1.0, ValueError, ["x", "()", "(N, 2)"]),
]


@pytest.mark.parametrize("x, error, words", BAD_X, ids=[f"{i}" for i in range(len(BAD_X))])
def test_bad_inputs(x, error, words):
    check(lambda: data.inputs(x, 2, F32), error, words)


def test_one_column_is_no_row():
    check(lambda: data.inputs(np.ones(5), 1, F32), ValueError, ["x", "(5,)", "x[:, None]"])


BAD_Y = [
    (np.ones(3), 3, 2, MSE, ValueError, ["y", "(3, 2)", "(3,)"]),
    (np.ones((3, 1)), 3, 2, MSE, ValueError, ["y", "(3, 2)", "(3, 1)"]),
    (np.ones((1, 2)), 3, 2, MSE, ValueError, ["y", "(3, 2)", "(1, 2)"]),
    (np.ones(4), 3, 1, MSE, ValueError, ["y", "(3, 1)", "(3,)", "(4,)"]),
    (1.0, 3, 1, MSE, ValueError, ["y", "()"]),
    (["a", "b", "c"], 3, 2, CROSS, TypeError, ["y", "numbers"]),
    ([0, 1, 2], 3, 2, CROSS, ValueError, ["y", "2", "0 to 1"]),
    ([0, 1, -1], 3, 2, CROSS, ValueError, ["y", "-1"]),
    (np.array([0, 1, 2**63], np.uint64), 3, 2, CROSS, ValueError, ["y", str(2**63)]),
    ([0.0, 1.0, 1.0], 3, 2, CROSS, TypeError, ["y", "float64", "astype"]),
    ([0, 1], 3, 2, CROSS, ValueError, ["y", "(2,)", "(3,)"]),
    ([[0], [1], [1]], 3, 2, CROSS, ValueError, ["y", "(3, 1)", "(3, 2)", "(3,)", "ravel"]),
    ([1, 2, 2], 3, 2, CROSS, ValueError, ["y", "2", "0 to 1", "y - 1"]),
    ([[1.5, -0.5], [0, 1], [0, 1]], 3, 2, CROSS, ValueError, ["y", "-0.5", "1.5", "0 to 1"]),
    (np.ma.array([0, 1, 1], mask=[0, 0, 1]), 3, 2, CROSS, TypeError, ["y", "mask", "filled"]),
    ([-1, 1, 1], 3, 1, BINARY, ValueError, ["y", "-1", "0 to 1"]),
    ([0, 2, 1], 3, 1, BINARY, ValueError, ["y", "2", "0 to 1"]),
]


@pytest.mark.parametrize("y, rows, outputs, loss, error, words", BAD_Y, ids=[f"{i}" for i in range(len(BAD_Y))])
def test_bad_truths(y, rows, outputs, loss, error, words):
    check(lambda: data.truths(y, rows, outputs, F32, loss), error, words)


def test_weights(dtype):
    made = data.weights([1, 0, 2], 3, dtype)
    assert (made.dtype, made.tolist()) == (dtype, [1.0, 0.0, 2.0])
    assert data.weights(None, 3, dtype) is None


@pytest.mark.parametrize(
    "weights, words",
    [
        ([1, 2], ["(2,)", "(3,)"]),
        ([[1], [2], [3]], ["(3, 1)", "(3,)"]),
        ([1, np.nan, 1], ["finite", "nan"]),
        ([1, np.inf, 1], ["finite", "inf"]),
        ([1, -1, 1], ["at least 0", "-1"]),
        ([0, 0, 0], ["all"]),
    ],
    ids=str,
)
def test_bad_weights(weights, words):
    check(lambda: data.weights(weights, 3, F32), ValueError, ["sample_weight", *words])


def check(call, error, words):
    with pytest.raises(error) as caught:
        call()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in the message: {caught.value}"


def test_objects_that_are_whole_numbers_are_classes():
    truth, labels = data.truths(np.array([1, 0, 1], object), 3, 4, F32, CROSS)
    assert truth is None and labels.tolist() == [1, 0, 1]


def test_what_is_not_aligned_is_copied():
    x = np.frombuffer(bytearray(33), np.uint8)[1:].view(F32).reshape(4, 2)
    assert not x.flags.aligned
    assert data.inputs(x, 2, np.dtype(F32)).flags.aligned
