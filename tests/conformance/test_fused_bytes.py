"""What each kernel allocates: its results, and reusable scratch within the last cache, whatever the batch.

tracemalloc sees NumPy's arrays (its domain, for what is left after the call) and everything else that Python
allocates (for the peak). On a device each allocation of a call is known, and all of them together are as many bytes as
its results. `backend.scratch_bytes()` counts the scratch that the backend holds for its next call.
"""

import os
import tracemalloc

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATION_CASES, KERNELS, OPTIMIZERS

# Python's own objects in a call. Every array that could be written needlessly is four times as large.
SLACK = 8192
SHAPE = (128, 2, 64)
SIMULATED = (7, 2, 5)  # where bytes are exact, and larger shapes take seconds


def allocated(call):
    """The bytes of NumPy arrays that outlive the call, and the peak of all allocations during it: the least of three
    calls, since those of another thread of the process count as well; what a kernel needs it allocates in each."""
    call()
    return min((_traced(call) for _ in range(3)), key=lambda both: both[1])


def _traced(call):
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        results = call()
        peak = tracemalloc.get_traced_memory()[1] - before
        numpy_domain = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
        traces = tracemalloc.take_snapshot().filter_traces([numpy_domain])
        left = sum(trace.size for trace in traces.statistics("filename"))
        del results
    finally:
        tracemalloc.stop()
    return left, peak


@pytest.fixture
def shape(request):
    return SIMULATED if request.node.callspec.params["backend"] == "simulator" else SHAPE


def check(backend, kernel, call, nbytes):
    call()
    held = backend.scratch_bytes()
    if backend.device == "cuda":
        call()
        assert sum(backend.allocated) == nbytes, f"{kernel} allocates {backend.allocated}, expected {nbytes} bytes"
    else:
        left, peak = allocated(call)
        assert abs(left - nbytes) <= 1024, f"{kernel} leaves {left} bytes of arrays, expected {nbytes}"
        assert peak <= nbytes + SLACK, f"{kernel} allocates {peak} bytes at its peak, expected {nbytes}"
    assert backend.scratch_bytes() == held, f"{kernel}'s scratch grew from {held} in its second equal call"


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_allocates_its_results(backend, dtype, kernel, shape, rng):
    arguments = oracle.arguments(kernel, rng, dtype, shape)
    results = oracle.arrays(getattr(backend, kernel)(**arguments))
    nbytes = sum(array.nbytes for array in results)
    check(backend, kernel, lambda: getattr(backend, kernel)(**arguments), nbytes)


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_dense_forward_saves_no_more_than_its_rule_needs(backend, dtype, case, shape, rng):
    """y, and z only for a rule whose gradient reads it."""
    rows, _, outputs = shape
    arguments = oracle.arguments("dense_forward", rng, dtype, shape) | {"activation": case.rule(fm.activations)}
    y = rows * outputs * dtype.itemsize
    both = 2 * y if fm.activations.get(case.name).saves == "preactivation" else y
    check(backend, "dense_forward", lambda: backend.dense_forward(**arguments), y)
    check(backend, "dense_forward", lambda: backend.dense_forward(**arguments, return_saved=True), both)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "softmax"])
def test_dense_forward_with_out_allocates_nothing(backend, dtype, activation, shape, rng):
    arguments = oracle.arguments("dense_forward", rng, dtype, shape) | {"activation": activation}
    out = np.empty((shape[0], shape[2]), dtype)
    check(backend, "dense_forward", lambda: backend.dense_forward(**arguments, out=out), 0)


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "softmax"])
def test_dense_backward_without_dx_allocates_no_dx(backend, dtype, activation, shape, rng):
    rows, outputs, inputs = shape
    arguments = oracle.arguments("dense_backward", rng, dtype, (rows, inputs, outputs))
    arguments |= {"activation": activation, "need_dx": False}
    nbytes = outputs * (inputs + 1) * dtype.itemsize
    check(backend, "dense_backward", lambda: backend.dense_backward(**arguments), nbytes)


@pytest.mark.parametrize("kernel", oracle.DENSE_KERNELS)
def test_scratch_does_not_grow_with_the_batch(backend, dtype, kernel, compiled, shape, rng):
    """Never z or dz at full size: compiled that would be 16 MiB or more here, on python 128 KiB or more, and on the
    simulator 1 KiB, of which its panel is an eighth."""
    shape = (16384, 2, 256) if compiled else (512, 2, 64) if shape is SHAPE else (32, 2, 8)
    getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype, shape))
    assert backend.scratch_bytes() < shape[0] * shape[2] * dtype.itemsize


@pytest.mark.host("a device's cache is not asked for its size")
def test_scratch_fits_the_last_cache(backend, dtype, rng):
    cache = max((os.sysconf(key) for key in os.sysconf_names if key.endswith("CACHE_SIZE")), default=0) or 32 << 20
    for kernel in oracle.DENSE_KERNELS:
        getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype, (16, 24, 40)))
    assert backend.scratch_bytes() <= cache


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_allocates_nothing(backend, dtype, name, shape, rng):
    parameter, gradient = rng.normal(size=(2, shape[0], shape[2])).astype(dtype)
    optimizer = getattr(fm, name)()
    state = optimizer.init(parameter)
    check(backend, "update_inplace", lambda: backend.update_inplace(optimizer, parameter, gradient, state), 0)


SLOTS = [
    ("SGD", {}, 0),
    ("SGD", {"momentum": 0.9}, 1),
    ("Adam", {}, 2),
    ("AdamW", {}, 2),
    ("RMSprop", {}, 1),
    ("RMSprop", {"momentum": 0.9, "centered": True}, 3),
]


@pytest.mark.parametrize("name, options, slots", SLOTS, ids=str)
def test_state_has_no_more_slots_than_the_rule(backend, dtype, name, options, slots, rng):
    parameter = rng.normal(size=(128, 64)).astype(dtype)
    optimizer = getattr(fm, name)(**options)
    check(backend, "state", lambda: backend.state(optimizer, parameter), slots * parameter.nbytes)
