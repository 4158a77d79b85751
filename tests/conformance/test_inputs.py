"""What a kernel takes: any layout, read-only arrays, nothing at all, one row; and what `out=` and `precision=` mean."""

import re

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import KERNELS, Case

pytestmark = pytest.mark.usefixtures("typed")


def strided(array):
    wide = np.zeros([2 * size for size in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "unaligned": unaligned,
    "read_only": read_only,
}
LAYOUT = pytest.mark.parametrize(
    "layout",
    [name for name in LAYOUTS if name != "read_only"]
    + [pytest.param("read_only", marks=pytest.mark.host("CuPy has no read-only arrays"))],
)


def each_array(arguments, change):
    return {key: change(value) if isinstance(value, np.ndarray) else value for key, value in arguments.items()}


def assert_same(got, expected):
    for one, other in zip(oracle.arrays(got), oracle.arrays(expected), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize("kernel", KERNELS)
@LAYOUT
def test_layout(backend, dtype, kernel, layout, rng):
    """Same numbers whatever the layout, contiguous results, inputs untouched."""
    arguments = each_array(oracle.arguments(kernel, rng, dtype), LAYOUTS[layout])
    plain = each_array(arguments, lambda array: np.array(array, order="C"))
    got = getattr(backend, kernel)(**arguments)
    assert_same(got, getattr(backend, kernel)(**plain))
    for array in oracle.arrays(got):
        assert array.flags.c_contiguous and array.flags.writeable
    for key, array in plain.items():
        np.testing.assert_array_equal(arguments[key], array, err_msg=key)


@pytest.mark.parametrize("name", oracle.OPTIMIZERS)
@LAYOUT
def test_layout_of_a_gradient(backend, dtype, name, layout, rng):
    parameter, gradient = rng.normal(size=(2, 6, 4)).astype(dtype)
    gradient, copy, optimizer = LAYOUTS[layout](gradient), parameter.copy(), getattr(fm, name)()
    backend.update_inplace(optimizer, parameter, gradient, optimizer.init(parameter))
    backend.update_inplace(optimizer, copy, np.array(gradient, order="C"), optimizer.init(copy))
    np.testing.assert_array_equal(parameter, copy)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(0, 4, 5), (0, 0, 1)], ids=oracle.extent)
def test_no_rows(backend, dtype, kernel, shape, rng):
    """Right shapes and dtypes; a sum over no rows is 0, a mean over none NaN, as PyTorch's."""
    rows, inputs, outputs = shape
    shapes = {
        "dense_forward": [(rows, outputs)],
        "dense_backward": [(rows, inputs), (outputs, inputs), (outputs,)],
        **{loss: [(), (rows, outputs)] for loss in oracle.LOSSES},
    }
    got = oracle.arrays(getattr(backend, kernel)(**oracle.arguments(kernel, rng, dtype, shape)))
    assert [array.shape for array in got] == shapes.get(kernel, [(rows, outputs)])
    for array in got:
        assert array.dtype == dtype
        assert np.isnan(array) if array.shape == () else not array.any()


@pytest.mark.parametrize("case", oracle.ACTIVATION_CASES, ids=str)
def test_one_row(backend, dtype, case, rng):
    """A 1-D x is one row: y, saved, dy and dx are 1-D as well; dweight and dbias keep their shapes."""
    x, weight, bias, dy = (rng.normal(size=size).astype(dtype) for size in (4, (5, 4), 5, 5))
    rule = case.rule(fm.activations)
    y, saved = backend.dense_forward(x, weight, bias, rule, return_saved=True)
    oracle.dense_forward(x[None], weight, bias, case)[0][0].check(y, "y")
    assert saved.shape == (5,)
    z, _ = oracle.preactivation(x[None], weight, bias)
    saved = oracle.saved(z, case, fm.activations.get(case.name).saves, dtype)[0]
    dx, dweight, dbias = backend.dense_backward(dy, x, weight, saved, rule)
    right = oracle.dense_backward(dy[None], x[None], weight, bias, case)
    right[0][0].check(dx, "dx")
    right[1].check(dweight, "dweight")
    right[2].check(dbias, "dbias")
    one_z = np.linspace(-1, 1, 5, dtype=dtype)
    oracle.activate(one_z[None], case)[0].check(backend.activate(one_z, rule), "activate")


def test_bias_defaults_to_none_and_activation_to_identity(backend, dtype, rng):
    x, weight = (rng.normal(size=size).astype(dtype) for size in ((6, 4), (5, 4)))
    oracle.dense_forward(x, weight, None, Case("identity"))[0].check(backend.dense_forward(x, weight), "y")


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "softmax"])
def test_out(backend, dtype, activation, rng):
    """The result is `out` itself, every element of it written, and nothing beside it."""
    arguments = oracle.arguments("dense_forward", rng, dtype) | {"activation": activation}
    room = np.full((8, 5), 7.0, dtype)
    expected = backend.dense_forward(**arguments)
    out = room[1:7]
    out[...] = np.nan
    assert backend.dense_forward(**arguments, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert (room[[0, 7]] == 7.0).all()


def test_out_with_saved(backend, dtype, rng):
    arguments = oracle.arguments("dense_forward", rng, dtype)
    for activation in ("sigmoid", "gelu"):
        out = np.full((6, 5), np.nan, dtype)
        expected = backend.dense_forward(**arguments | {"activation": activation}, return_saved=True)
        got = backend.dense_forward(**arguments | {"activation": activation}, return_saved=True, out=out)
        assert got[0] is out
        assert_same(got, expected)


def test_out_may_neighbour_an_input(backend, dtype, rng):
    """Touching memory is no overlap: x, then out, in one buffer."""
    weight = rng.normal(size=(4, 4)).astype(dtype)
    buffer = rng.normal(size=(12, 4)).astype(dtype)
    x, out = buffer[:6], buffer[6:]
    expected, before = backend.dense_forward(x.copy(), weight), x.copy()
    backend.dense_forward(x, weight, out=out)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, before)


def test_precision_of_the_dtype_is_the_plain_product(backend, dtype, rng):
    arguments = oracle.arguments("dense_forward", rng, dtype)
    assert_same(backend.dense_forward(**arguments, precision=dtype.name), backend.dense_forward(**arguments))


@pytest.mark.parametrize("of", ["float32", "float64"])
def test_precision_that_there_is_not(backend, of, rng):
    """The error has the argument, what there is on this backend for this dtype, what came, and what there is elsewhere.
    A model says the same as single kernels."""
    other = "float64" if of == "float32" else "float32"
    there_are = [of, "tf32", "bf16"] if (of, backend.device) == ("float32", "cuda") else [of]
    expected = " or ".join(["None", *map(repr, there_are)])
    forward, backward = (oracle.arguments(f"dense_{way}", rng, np.dtype(of)) for way in ("forward", "backward"))
    for asked in {"fp16", "TF32", "bf", other, "", "tf32", "bf16", 16, np.float32}.difference(there_are):
        words = re.escape(f"precision: expected {expected} for {of} arrays on {backend.name}, got {asked!r}")
        with pytest.raises(ValueError if isinstance(asked, str) else TypeError, match=words) as caught:
            backend.dense_forward(**forward, precision=asked)
        assert ("are for float32 arrays on cuda" in str(caught.value)) == ("tf32" not in there_are)
        with pytest.raises(caught.type, match=words):
            backend.dense(**forward, precision=asked)
        with pytest.raises(caught.type, match=words):
            backend.dense_backward(**backward, precision=asked)
        with pytest.raises(caught.type, match=words):
            fm.MLP([3, 2], dtype=of, backend=getattr(backend, "bare", backend), precision=asked)


@pytest.mark.device("a processor has products of its arrays' own precision alone")
@pytest.mark.parametrize("precision, bits", [("tf32", 11), ("bf16", 8)])
def test_precision_of_a_device(backend, precision, bits, rng):
    """Both factors of a product rounded to so many bits, or to more, and the products of their elements summed in
    float32. The bias and its gradient are no products."""
    dy, x, weight, bias = (rng.normal(size=size).astype(np.float32) for size in ((7, 5), (7, 13), (5, 13), 5))
    y = backend.dense_forward(x, weight, bias, precision=precision)
    dx, dweight, dbias = backend.dense_backward(dy, x, weight, y, "identity", precision=precision)
    products = {"y": (y - bias, x, weight.T), "dx": (dx, dy, weight), "dweight": (dweight, dy.T, x)}
    for name, (got, a, b) in products.items():
        right = a.astype(np.float64) @ b.astype(np.float64)
        oracle.Expected(right, 2.1 * 2.0**-bits * (np.abs(a) @ np.abs(b)), x.dtype).check(got, name)
    np.testing.assert_allclose(dbias, dy.sum(0), rtol=1e-5, atol=1e-6)
