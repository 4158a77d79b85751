"""Micro-benchmarks of single kernels (`pytest benchmarks/`, with pytest-benchmark); times are of one call.

A group holds one kernel at one shape and dtype: this library on each of the machine's backends, unfused
NumPy, and PyTorch. Each result is held against NumPy's in float64 before it is timed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import fusedmlp as fm
from fusedmlp.backends.cpu.threads import default_threads
from fusedmlp.benchmarks.forms import Library, NumPy, PyTorch

pytest.importorskip("pytest_benchmark")

THREADS = default_threads()
PYTHON_ELEMENTS = 10_000  # the python backend takes microseconds for each element: minutes beyond
DENSE_SHAPES = ((8, 16, 16), (64, 784, 128), (512, 1024, 1024))
ROW_SHAPES = ((8, 16), (512, 1024))
PARAMETER_SHAPES = ((16, 16), (1024, 1024))
ACTIVATIONS = ("relu", "tanh", "gelu")
LOSSES = ("cross_entropy", "mse", "half_mse", "mae", "huber", "binary_cross_entropy_with_logits")
OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop")
# Relative to the largest element: 100 and more units in the last place, for sums of up to 1024 terms.
TOLERANCE = {"float32": 2e-5, "float64": 2e-13}
MAX_SECONDS = 0.2  # for each benchmark

forms = pytest.mark.parametrize("form", [*fm.available_backends(), "numpy", "pytorch"])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
pytestmark = [forms, dtypes, pytest.mark.benchmark(max_time=MAX_SECONDS, warmup=True, warmup_iterations=3)]


@pytest.fixture(autouse=True)
def equal_threads() -> Iterator[None]:
    """The same number for NumPy's BLAS as for the library and for PyTorch."""
    with threadpool_limits(THREADS):
        yield


def shapes(choices: tuple[tuple[int, ...], ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", choices, ids=lambda shape: "x".join(map(str, shape)))


def implementation(form: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> Any:
    if form == "numpy":
        return NumPy()
    if form == "pytorch":
        pytest.importorskip("torch")
        return PyTorch(THREADS)
    if form == "python" and np.prod(shape) > PYTHON_ELEMENTS:
        pytest.skip("the python backend is for small arrays")
    monkeypatch.setenv("FUSEDMLP_BACKEND", form)
    return Library(form, THREADS)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def flat(result: Any) -> list[np.ndarray]:
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


def check_then_time(
    benchmark: Any, form: Any, group: str, dtype: str, call: Callable[..., Any], *arguments: np.ndarray
) -> None:
    """`call(form, *arguments)` in `dtype`: first against NumPy's in float64, then timed."""
    expected = flat(call(NumPy(), *arguments))
    given = [form.array(a.astype(dtype) if a.dtype.kind == "f" else a) for a in arguments]
    for part, right in zip(flat(call(form, *given)), expected, strict=True):
        allowed = TOLERANCE[dtype] * np.abs(right).max()
        np.testing.assert_allclose(part, right, rtol=0, atol=allowed)
        assert part.dtype == dtype
    benchmark.group = f"{group} {dtype}"
    benchmark(call, form, *given)


def dense_arguments(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rows, inputs, outputs = shape
    x, weight = normal(0, rows, inputs), normal(1, outputs, inputs) * inputs**-0.5
    return x, weight, normal(2, outputs), normal(3, rows, outputs)


def title(kernel: str, shape: tuple[int, ...]) -> str:
    return f"{kernel} {'x'.join(map(str, shape))}"


@shapes(DENSE_SHAPES)
def test_dense_forward(benchmark, monkeypatch, form, shape, dtype):
    x, weight, bias, _ = dense_arguments(shape)
    lib = implementation(form, shape, monkeypatch)

    def call(lib, x, weight, bias):
        return lib.dense_forward(x, weight, bias, "relu")

    check_then_time(benchmark, lib, title("dense_forward", shape), dtype, call, x, weight, bias)


@shapes(DENSE_SHAPES)
def test_dense_backward(benchmark, monkeypatch, form, shape, dtype):
    x, weight, bias, dy = dense_arguments(shape)
    saved = NumPy().dense_forward(x, weight, bias, "tanh")
    lib = implementation(form, shape, monkeypatch)

    def call(lib, dy, x, weight, saved):
        return lib.dense_backward(dy, x, weight, saved, "tanh")

    check_then_time(benchmark, lib, title("dense_backward", shape), dtype, call, dy, x, weight, saved)


@shapes(DENSE_SHAPES)
def test_dense(benchmark, monkeypatch, form, shape, dtype):
    def call(lib, x, weight, bias, dy):
        y, backprop = lib.dense(x, weight, bias, "tanh")
        return (y, *backprop(dy))

    lib = implementation(form, shape, monkeypatch)
    check_then_time(benchmark, lib, title("dense", shape), dtype, call, *dense_arguments(shape))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@shapes(ROW_SHAPES)
def test_activate(benchmark, monkeypatch, form, shape, dtype, activation):
    lib = implementation(form, shape, monkeypatch)

    def call(lib, z):
        return lib.activate(z, activation)

    check_then_time(benchmark, lib, title(f"activate {activation}", shape), dtype, call, normal(0, *shape))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@shapes(ROW_SHAPES)
def test_activation_backward(benchmark, monkeypatch, form, shape, dtype, activation):
    z, dy = normal(0, *shape), normal(1, *shape)
    saved = z if activation == "gelu" else NumPy().activate(z, activation)
    lib = implementation(form, shape, monkeypatch)

    def call(lib, dy, saved):
        return lib.activation_backward(dy, saved, activation)

    check_then_time(benchmark, lib, title(f"activation_backward {activation}", shape), dtype, call, dy, saved)


@pytest.mark.parametrize("kernel", ["softmax", "log_softmax"])
@shapes(ROW_SHAPES)
def test_softmax(benchmark, monkeypatch, form, shape, dtype, kernel):
    lib = implementation(form, shape, monkeypatch)

    def call(lib, z):
        return getattr(lib, kernel)(z)

    check_then_time(benchmark, lib, title(kernel, shape), dtype, call, normal(0, *shape))


@pytest.mark.parametrize("loss", LOSSES)
@shapes(ROW_SHAPES)
def test_loss(benchmark, monkeypatch, form, shape, dtype, loss):
    target = normal(1, *shape)
    if loss == "cross_entropy":
        target = np.random.default_rng(1).integers(0, shape[1], shape[0])
    elif loss == "binary_cross_entropy_with_logits":
        target = (target > 0).astype(float)
    lib = implementation(form, shape, monkeypatch)

    def call(lib, prediction, target):
        return getattr(lib, loss)(prediction, target)

    check_then_time(benchmark, lib, title(loss, shape), dtype, call, normal(0, *shape), target)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@shapes(PARAMETER_SHAPES)
def test_update(benchmark, monkeypatch, form, shape, dtype, optimizer):
    """Three steps are checked; the fourth and later ones, with the state they find, are timed."""
    parameter, gradient = normal(0, *shape), normal(1, *shape)
    exact, reference = NumPy(), parameter.copy()
    right = exact.optimizer(optimizer, reference, gradient)
    lib = implementation(form, shape, monkeypatch)
    step = lib.optimizer(optimizer, lib.array(parameter.astype(dtype)), lib.array(gradient.astype(dtype)))
    for _ in range(3):
        right()
        found = np.asarray(step())
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE[dtype] * np.abs(reference).max())
    benchmark.group = title(optimizer, shape) + f" {dtype}"
    benchmark(step)
