"""One float dtype in, the same out, for every kernel; no silent promotion on the way to the result."""

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATION_CASES, KERNELS, LOSS_FORMS, REDUCTIONS


def assert_plain(array, dtype):
    assert type(array) is np.ndarray
    assert array.dtype == dtype
    assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_keeps_dtype(backend, dtype, kernel, rng):
    for array in oracle.arrays(getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype))):
        assert_plain(array, dtype)


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_activation_keeps_dtype(backend, dtype, case, rng):
    arguments = oracle.arguments("dense_forward", rng, dtype) | {"activation": case.rule(fm.activations)}
    y, backprop = backend.dense(**arguments)
    for array in (y, *backprop(np.ones_like(y))):
        assert_plain(array, dtype)
    for array in backend.dense_forward(**arguments, return_saved=True):
        assert_plain(array, dtype)


@pytest.mark.parametrize("case, form", LOSS_FORMS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_shapes_and_dtype(backend, dtype, case, form, reduction, rng):
    """A reduced loss is a 0-d array, an unreduced one has an element for each element or row."""
    prediction = rng.normal(size=(6, 5)).astype(dtype)
    target = oracle.target(form, 6, 5, rng, dtype)
    loss, gradient = getattr(backend, case.name)(prediction, target, reduction=reduction, **case.options)
    unreduced = (6,) if case.name == "cross_entropy" else (6, 5)
    assert loss.shape == (unreduced if reduction == "none" else ())
    assert gradient.shape == (6, 5)
    assert_plain(loss, dtype)
    assert_plain(gradient, dtype)


@pytest.mark.parametrize("case", oracle.OPTIMIZER_CASES, ids=str)
def test_update_keeps_dtype_and_place(backend, dtype, case, rng):
    parameter, gradient = rng.normal(size=(2, 6, 5)).astype(dtype)
    address, optimizer = parameter.ctypes.data, getattr(fm, case.name)(**case.options)
    backend.update_inplace(optimizer, parameter, gradient, optimizer.init(parameter))
    assert parameter.ctypes.data == address
    assert_plain(parameter, dtype)
