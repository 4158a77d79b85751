"""What each kernel allocates: its results, and reusable scratch within the last cache, whatever the batch.

tracemalloc sees NumPy's arrays (its domain, for what is left after the call) and everything else that Python
allocates (for the peak). `backend.scratch_bytes()` counts the scratch that the backend holds for its next
call.
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
# Bytes beyond the results, (backend's name, kernel) -> bytes of (B, I, O, itemsize). Each entry is one that
# docs/design.md lists with its cause.
DOCUMENTED = {}


def allocated(call):
    """The bytes of NumPy arrays that outlive the call, and the peak of all allocations during it."""
    call()
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


def check(backend, kernel, call, nbytes, shape=SHAPE, itemsize=4):
    call()
    held = backend.scratch_bytes()
    left, peak = allocated(call)
    extra = DOCUMENTED.get((backend.name, kernel), lambda *shape: 0)(*shape, itemsize)
    assert abs(left - nbytes) <= 1024, f"{kernel} leaves {left} bytes of arrays, expected {nbytes}"
    assert peak <= nbytes + extra + SLACK, f"{kernel} allocates {peak} bytes at its peak, expected {nbytes}"
    assert backend.scratch_bytes() == held, f"{kernel}'s scratch grew from {held} in its second equal call"


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_allocates_its_results(backend, dtype, kernel, rng):
    arguments = oracle.arguments(kernel, rng, dtype, SHAPE)
    results = oracle.arrays(getattr(backend, kernel)(**arguments))
    nbytes = sum(array.nbytes for array in results)
    check(backend, kernel, lambda: getattr(backend, kernel)(**arguments), nbytes, itemsize=dtype.itemsize)


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=str)
def test_dense_forward_saves_no_more_than_its_rule_needs(backend, dtype, case, rng):
    """y, and z only for a rule whose gradient reads it."""
    rows, _, outputs = SHAPE
    arguments = oracle.arguments("dense_forward", rng, dtype, SHAPE) | {"activation": case.rule(fm.activations)}
    y = rows * outputs * dtype.itemsize
    both = 2 * y if fm.activations.get(case.name).saves == "preactivation" else y
    check(backend, "dense_forward", lambda: backend.dense_forward(**arguments), y, itemsize=dtype.itemsize)
    saving = {"return_saved": True}
    check(
        backend,
        "dense_forward",
        lambda: backend.dense_forward(**arguments, **saving),
        both,
        itemsize=dtype.itemsize,
    )


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "softmax"])
def test_dense_forward_with_out_allocates_nothing(backend, dtype, activation, rng):
    arguments = oracle.arguments("dense_forward", rng, dtype, SHAPE) | {"activation": activation}
    out = np.empty((SHAPE[0], SHAPE[2]), dtype)
    check(
        backend,
        "dense_forward",
        lambda: backend.dense_forward(**arguments, out=out),
        0,
        itemsize=dtype.itemsize,
    )


@pytest.mark.parametrize("activation", ["sigmoid", "gelu", "softmax"])
def test_dense_backward_without_dx_allocates_no_dx(backend, dtype, activation, rng):
    _, inputs, outputs = shape = (128, 64, 2)
    arguments = oracle.arguments("dense_backward", rng, dtype, shape) | {
        "activation": activation,
        "need_dx": False,
    }
    nbytes = outputs * (inputs + 1) * dtype.itemsize
    check(
        backend,
        "dense_backward",
        lambda: backend.dense_backward(**arguments),
        nbytes,
        shape,
        itemsize=dtype.itemsize,
    )


@pytest.mark.parametrize("kernel", oracle.DENSE_KERNELS)
def test_scratch_does_not_grow_with_the_batch(backend, dtype, kernel, rng):
    """Never z or dz at full size: here that would be 128 KiB or more interpreted, 16 MiB or more compiled."""
    shape = (16384, 2, 256) if backend.name == "cpu" else (512, 2, 64)
    getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype, shape))
    assert backend.scratch_bytes() < shape[0] * shape[2] * dtype.itemsize


def test_scratch_fits_the_last_cache(backend, dtype, rng):
    cache = max((os.sysconf(key) for key in os.sysconf_names if key.endswith("CACHE_SIZE")), default=0) or 32 << 20
    for kernel in oracle.DENSE_KERNELS:
        getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype, (16, 24, 40)))
    assert backend.scratch_bytes() <= cache


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_allocates_nothing(backend, dtype, name, rng):
    parameter, gradient = rng.normal(size=(2, 128, 64)).astype(dtype)
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
def test_state_has_no_more_slots_than_the_rule(dtype, name, options, slots, rng):
    parameter = rng.normal(size=(128, 64)).astype(dtype)
    left, peak = allocated(lambda: getattr(fm, name)(**options).init(parameter))
    assert abs(left - slots * parameter.nbytes) <= 1024
    assert peak <= slots * parameter.nbytes + SLACK
