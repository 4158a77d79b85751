"""Bad input: an error that names the argument, what was expected and what came; nothing is written.

Each row changes a working call and lists what the message must contain (case does not count).
"""

import dataclasses

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import ACTIVATIONS, OPTIMIZERS

pytestmark = pytest.mark.usefixtures("typed")

F32, F64 = np.float32, np.float64
NAMES = list(ACTIVATIONS)


def zeros(*shape, dtype=F32):
    return np.zeros(shape, dtype)


def read_only(*shape):
    array = zeros(*shape)
    array.flags.writeable = False
    return array


# Records whose formulas nothing would run.
OWN = dataclasses.replace(fm.activations.relu, value=fm.activations.silu.value)
OWN_LOSS = dataclasses.replace(fm.losses.mse, gradient=fm.losses.mae.gradient)


def host(reason, *row):
    """A row that is not for a device."""
    return pytest.param(*row, marks=pytest.mark.host(reason))


NOT_CARRIED = "CuPy has no such arrays"
NOT_READ_BACK = "a device's indices are not read back before a kernel sees them"
NOT_OF_A_HOST = "a device has this precision"

# Working calls: x (6, 4), weight (5, 4), bias (5,), all else (6, 5); float32.
FLOATS = ("float32", "float64")
BAD_CALLS = [
    ("dense_forward", {"x": zeros(2, 6, 4)}, ValueError, ["x", "(2, 6, 4)", "(B, I)"]),
    ("dense_forward", {"x": zeros(6, 3)}, ValueError, ["x", "weight", "(6, 3)", "(5, 4)"]),
    ("dense_forward", {"x": zeros(3)}, ValueError, ["x", "weight", "(3,)", "(5, 4)"]),
    ("dense_forward", {"x": np.float32(1)}, (TypeError, ValueError), ["x"]),
    ("dense_forward", {"weight": zeros(4)}, ValueError, ["weight", "(4,)", "(O, I)"]),
    ("dense_forward", {"weight": zeros(4, 5)}, ValueError, ["weight", "(4, 5)", "(6, 4)"]),
    ("dense_forward", {"bias": zeros(4)}, ValueError, ["bias", "(4,)", "(5,)"]),
    ("dense_forward", {"bias": zeros(1)}, ValueError, ["bias", "(1,)", "(5,)"]),
    ("dense_forward", {"bias": zeros(1, 5)}, ValueError, ["bias", "(1, 5)", "(5,)"]),
    ("dense_forward", {"weight": zeros(5, 4, dtype=F64)}, TypeError, ["weight", *FLOATS, ".astype("]),
    ("dense_forward", {"bias": zeros(5, dtype=F64)}, TypeError, ["bias", *FLOATS, ".astype("]),
    ("dense_forward", {"x": zeros(6, 4, dtype=np.int64)}, TypeError, ["x", "int64", "float32", ".astype("]),
    ("dense_forward", {"x": zeros(6, 4, dtype=bool)}, TypeError, ["x", "bool", "float32", ".astype("]),
    ("dense_forward", {"x": zeros(6, 4, dtype=np.float16)}, TypeError, ["x", "float16", "float32"]),
    ("dense_forward", {"x": zeros(6, 4, dtype=np.complex64)}, TypeError, ["x", "complex64", "float32"]),
    host(NOT_CARRIED, "dense_forward", {"x": zeros(6, 4, dtype=object)}, TypeError, ["x", "object", "float32"]),
    ("dense_forward", {"x": [[1.0] * 4] * 6}, TypeError, ["x", "list", "pass np.asarray(x, dtype=np.float32)"]),
    ("dense_forward", {"activation": "relo"}, ValueError, ["activation", "relo", *NAMES]),
    ("dense_forward", {"activation": 3}, (TypeError, ValueError), ["activation", "3", *NAMES]),
    ("dense_forward", {"activation": OWN}, ValueError, ["activation", "'relu'", "formulas"]),
    host(NOT_CARRIED, "dense_forward", {"x": np.ma.array(zeros(6, 4))}, TypeError, ["x", "mask", "filled"]),
    host(NOT_OF_A_HOST, "dense_forward", {"precision": "tf32"}, ValueError, ["precision", "tf32", "float32"]),
    ("dense_forward", {"precision": "double"}, ValueError, ["precision", "double", "float32"]),
    ("dense_forward", {"out": zeros(5, 6)}, ValueError, ["out", "(5, 6)", "(6, 5)"]),
    ("dense_forward", {"out": zeros(6, 5, dtype=F64)}, TypeError, ["out", *FLOATS]),
    host(NOT_CARRIED, "dense_forward", {"out": read_only(6, 5)}, ValueError, ["out", "read-only", "writable"]),
    ("dense_forward", {"out": zeros(5, 6).T}, ValueError, ["out", "contiguous"]),
    ("dense_forward", {"out": [[0.0] * 5] * 6}, TypeError, ["out", "list", "array"]),
    ("dense", {"weight": zeros(5, 3)}, ValueError, ["weight", "(5, 3)", "(6, 4)"]),
    ("dense", {"activation": "relo"}, ValueError, ["activation", "relo", *NAMES]),
    ("dense_backward", {"dy": zeros(6, 4)}, ValueError, ["dy", "(6, 4)", "(6, 5)"]),
    ("dense_backward", {"dy": zeros(1, 5)}, ValueError, ["dy", "(1, 5)", "(6, 5)"]),
    ("dense_backward", {"dy": zeros(6, 5, dtype=F64)}, TypeError, ["dy", *FLOATS, ".astype("]),
    ("dense_backward", {"x": zeros(7, 4)}, ValueError, ["x", "(7, 4)"]),
    ("dense_backward", {"weight": zeros(5, 3)}, ValueError, ["weight", "(5, 3)", "(6, 4)"]),
    ("dense_backward", {"saved": zeros(6, 4)}, ValueError, ["saved", "(6, 4)", "(6, 5)"]),
    ("dense_backward", {"saved": zeros(6, 5, dtype=F64)}, TypeError, ["saved", *FLOATS, ".astype("]),
    ("dense_backward", {"saved": None}, TypeError, ["saved", "None"]),
    ("dense_backward", {"activation": "relo"}, ValueError, ["activation", "relo", *NAMES]),
    host(NOT_OF_A_HOST, "dense_backward", {"precision": "bf16"}, ValueError, ["precision", "bf16", "float32"]),
    ("activate", {"z": zeros(6, 5, dtype=np.int32)}, TypeError, ["z", "int32", "float32", ".astype("]),
    ("activate", {"activation": ""}, ValueError, ["activation", *NAMES]),
    ("activation_backward", {"dy": zeros(6, 4)}, ValueError, ["dy", "(6, 4)", "(6, 5)"]),
    ("activation_backward", {"saved": zeros(6, 5, dtype=F64)}, TypeError, ["saved", *FLOATS, ".astype("]),
    ("activation_backward", {"activation": "Sigmoid"}, ValueError, ["activation", "Sigmoid", *NAMES]),
    ("softmax", {"z": zeros(6, 5, dtype=np.int32)}, TypeError, ["z", "int32", "float32", ".astype("]),
    ("log_softmax", {"z": zeros(6, 5, dtype=np.int32)}, TypeError, ["z", "int32", "float32", ".astype("]),
    ("huber", {"delta": 0.0}, ValueError, ["delta", "0.0"]),
    ("huber", {"delta": np.nan}, ValueError, ["delta", "nan"]),
    ("huber", {"delta": "1"}, TypeError, ["delta", "'1'"]),
    ("activate", {"activation": dataclasses.replace(OWN, name="mine")}, ValueError, ["activation", "'mine'", *NAMES]),
    *(
        host(NOT_READ_BACK, "cross_entropy", {"target": np.array([0] * 5 + [wrong], index)}, ValueError, words)
        for wrong, index, words in (
            (5, np.int64, ["target", "5"]),
            (-1, np.int64, ["target", "-1", "5"]),
            (255, np.uint8, ["target", "255", "5"]),
            (2**63, np.uint64, ["target", str(2**63), "5"]),
        )
    ),
    *(
        host(NOT_READ_BACK, "cross_entropy", changes | {"target": np.arange(6)}, ValueError, ["target", "4", "5"])
        for changes in (
            {"reduction": "sum"},
            {"reduction": "none"},
            {"sample_weight": np.array([1, 1, 1, 1, 1, 0], F32)},
        )
    ),
    host(
        NOT_READ_BACK,
        "cross_entropy",
        {"logits": zeros(6, 0), "target": np.zeros(6, np.int64), "reduction": "sum"},
        ValueError,
        ["target", "0 classes"],
    ),
    ("cross_entropy", {"target": [0, 1, 2, 3, 4, 0]}, TypeError, ["target", "list", "int64"]),
    ("cross_entropy", {"target": np.zeros((6, 1), np.int64)}, ValueError, ["target", "(6, 1)", "(6,)", "ravel"]),
    ("cross_entropy", {"target": np.zeros((6, 5), np.int64)}, ValueError, ["target", "(6, 5)", "probability", "float"]),
    ("cross_entropy", {"target": np.zeros(5, np.int64)}, ValueError, ["target", "(5,)", "(6,)"]),
    (
        "cross_entropy",
        {"target": np.zeros((6, 1), np.int64)},
        (TypeError, ValueError),
        ["target", "(6, 1)", "(6,)"],
    ),
    ("cross_entropy", {"target": zeros(6)}, (TypeError, ValueError), ["target", "float32", "int"]),
    ("cross_entropy", {"target": zeros(6, dtype=bool)}, TypeError, ["target", "bool", "int"]),
    ("cross_entropy", {"target": zeros(6, 4)}, ValueError, ["target", "(6, 4)", "(6, 5)"]),
    ("cross_entropy", {"target": zeros(6, 5, dtype=F64)}, TypeError, ["target", *FLOATS, ".astype("]),
]
for loss, prediction in [(name, "logits" if "cross" in name else "prediction") for name in oracle.LOSSES]:
    BAD_CALLS += [
        (
            loss,
            {prediction: zeros(6, 5, dtype=np.int64)},
            TypeError,
            [prediction, "int64", "float32", ".astype("],
        ),
        (loss, {"reduction": "average"}, ValueError, ["reduction", "average", "mean", "sum", "none"]),
        (loss, {"reduction": None}, (TypeError, ValueError), ["reduction", "None", "mean", "sum", "none"]),
        (loss, {"sample_weight": zeros(5)}, ValueError, ["sample_weight", "(5,)", "(6,)"]),
        (loss, {"sample_weight": zeros(6, 5)}, ValueError, ["sample_weight", "(6, 5)", "(6,)"]),
        (loss, {"sample_weight": zeros(6, dtype=F64)}, TypeError, ["sample_weight", *FLOATS, ".astype("]),
    ]
    if loss != "cross_entropy":
        BAD_CALLS += [
            (loss, {"target": zeros(6)}, ValueError, ["target", "(6,)", "(6, 5)"]),
            (loss, {"target": zeros(6, 1)}, ValueError, ["target", "(6, 1)", "(6, 5)"]),
            (loss, {"target": zeros(6, 5, dtype=F64)}, TypeError, ["target", *FLOATS, ".astype("]),
            (
                loss,
                {"target": zeros(6, 5, dtype=np.int64)},
                TypeError,
                ["target", "int64", "float32", ".astype("],
            ),
        ]


def snapshot(values):
    return {key: value.copy() for key, value in values.items() if isinstance(value, np.ndarray)}


def assert_message(error, words):
    message = str(error.value).lower()
    missing = [word for word in words if word.lower() not in message]
    assert not missing, f"{missing} not in the message: {error.value}"


def identify(row):
    kernel, change, *_ = getattr(row, "values", row)
    (name, value), *_ = change.items()
    shown = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:12]
    return f"{kernel}-{name}-{shown}"


@pytest.mark.parametrize("kernel, change, error, words", BAD_CALLS, ids=map(identify, BAD_CALLS))
def test_bad_call(backend, kernel, change, error, words, rng):
    arguments = oracle.arguments("dense_forward" if kernel == "dense" else kernel, rng, F32) | change
    before = snapshot(arguments)
    with pytest.raises(error) as caught:
        getattr(backend, kernel)(**arguments)
    assert_message(caught, words)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array, err_msg=name)


@pytest.mark.parametrize("bias", ["relu", 0.5, {}], ids=str)
def test_what_holds_no_numbers_is_not_told_to_become_an_array(backend, bias, rng):
    with pytest.raises(TypeError, match=f"bias: expected an array, got {type(bias).__name__}$"):
        backend.dense_forward(**oracle.arguments("dense_forward", rng, F32) | {"bias": bias})


@pytest.mark.parametrize("change", [{"x": zeros(6, 3)}, {"bias": zeros(5, dtype=F64)}, {"activation": "relo"}], ids=str)
def test_nothing_is_written_to_out(backend, change, rng):
    out = np.full((6, 5), 7.0, F32)
    with pytest.raises((TypeError, ValueError)):
        backend.dense_forward(**oracle.arguments("dense_forward", rng, F32) | change, out=out)
    assert (out == 7.0).all()


@pytest.mark.parametrize("overlapped", ["x", "weight", "bias"])
def test_out_overlaps_an_input(backend, overlapped, rng):
    """Sharing one element is enough; the buffer stays as it was."""
    shapes = {"x": (6, 5), "weight": (5, 5), "bias": (5,)}
    buffer = rng.normal(size=60).astype(F32)
    arguments = {name: rng.normal(size=shape).astype(F32) for name, shape in shapes.items()}
    size = arguments[overlapped].size
    arguments[overlapped] = buffer[29 : 29 + size].reshape(shapes[overlapped])
    before = buffer.copy()
    with pytest.raises(ValueError) as caught:
        backend.dense_forward(**arguments, activation="relu", out=buffer[:30].reshape(6, 5))
    assert_message(caught, ["out", overlapped, "overlap"])
    np.testing.assert_array_equal(buffer, before)


def test_out_overlaps_an_input_that_is_copied(backend):
    """x is not contiguous, so the kernel reads a copy; what the caller gave would be overwritten all the same."""
    base = np.arange(16, dtype=F32).reshape(4, 4)
    before = base.copy()
    with pytest.raises(ValueError) as caught:
        backend.dense_forward(base.T, np.eye(4, dtype=F32), out=base)
    assert_message(caught, ["out", "x", "overlap"])
    np.testing.assert_array_equal(base, before)


class Kept(np.ndarray):
    """An array that is not carried to a device."""


@pytest.mark.device("on the host, tests/system/test_selector.py has arrays that lie elsewhere")
@pytest.mark.parametrize("kernel", oracle.KERNELS)
def test_an_array_of_the_host(backend, kernel, rng):
    """Each argument in turn: never a silent copy to the device."""
    arguments = oracle.arguments(kernel, rng, F32)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            with pytest.raises(TypeError, match=f"^{name}: expected an array on a CUDA device, got one on cpu"):
                getattr(backend, kernel)(**arguments | {name: value.view(Kept)})


@pytest.mark.device("on the host, tests/system/test_selector.py has arrays that lie elsewhere")
@pytest.mark.parametrize("name", ["parameter", "gradient"])
def test_an_update_of_an_array_of_the_host(backend, name):
    optimizer, arrays = fm.Adam(), {"parameter": zeros(6, 4), "gradient": zeros(6, 4)}
    state = optimizer.init(arrays["parameter"])
    arrays[name] = arrays[name].view(Kept)
    with pytest.raises(TypeError, match=f"^{name}: expected an array on a CUDA device, got one on cpu"):
        backend.update_inplace(optimizer, **arrays, state=state)
    assert state.steps == 0


def test_parameter_overlaps_its_gradient(backend):
    buffer, optimizer = np.arange(9, dtype=F32), fm.SGD(1.0)
    weight = buffer[1:]
    with pytest.raises(ValueError) as caught:
        backend.update_inplace(optimizer, weight, buffer[:-1], optimizer.init(weight))
    assert_message(caught, ["parameter", "gradient", "overlap"])
    np.testing.assert_array_equal(buffer, np.arange(9))


def test_scalars_beyond_the_dtype(backend):
    weight, optimizer = zeros(3), fm.SGD(1e39)
    with pytest.raises(ValueError) as caught:
        backend.update_inplace(optimizer, weight, zeros(3) + 1, optimizer.init(weight))
    assert_message(caught, ["optimizer", "1e+39", "float32"])
    np.testing.assert_array_equal(weight, 0)


def test_backprop_checks_its_gradient(backend, rng):
    _, backprop = backend.dense(**oracle.arguments("dense_forward", rng, F32))
    with pytest.raises(ValueError) as caught:
        backprop(zeros(6, 4))
    assert_message(caught, ["dy", "(6, 4)", "(6, 5)"])


BAD_OPTIMIZERS = [
    (name, {"lr": lr}, ValueError, ["lr", str(lr)]) for name in OPTIMIZERS for lr in (np.nan, np.inf, -0.1)
]
BAD_OPTIMIZERS += [(name, {"lr": "fast"}, TypeError, ["lr", "fast"]) for name in OPTIMIZERS]
BAD_OPTIMIZERS += [
    (name, {"weight_decay": value}, ValueError, ["weight_decay", str(value)])
    for name in OPTIMIZERS
    for value in (-0.5, np.nan)
]
BAD_OPTIMIZERS += [
    ("SGD", {"momentum": -0.5}, ValueError, ["momentum", "-0.5"]),
    ("SGD", {"momentum": np.inf}, ValueError, ["momentum", "inf"]),
    ("SGD", {"nesterov": True}, ValueError, ["nesterov", "momentum"]),
    ("SGD", {"nesterov": "no"}, TypeError, ["nesterov", "'no'", "False"]),
    ("RMSprop", {"centered": 1}, TypeError, ["centered", "1", "False"]),
    ("Adam", {"betas": (1.0, 0.999)}, ValueError, ["betas", "1.0"]),
    ("Adam", {"betas": (0.9, -0.1)}, ValueError, ["betas", "-0.1"]),
    ("Adam", {"betas": 0.9}, (TypeError, ValueError), ["betas", "0.9"]),
    ("Adam", {"eps": -1e-8}, ValueError, ["eps", "-1e-08"]),
    ("AdamW", {"betas": (0.9, 1.5)}, ValueError, ["betas", "1.5"]),
    ("RMSprop", {"alpha": -0.1}, ValueError, ["alpha", "-0.1"]),
    ("RMSprop", {"momentum": -1.0}, ValueError, ["momentum", "-1.0"]),
    ("RMSprop", {"eps": np.nan}, ValueError, ["eps", "nan"]),
]


@pytest.mark.parametrize("name, options, error, words", BAD_OPTIMIZERS, ids=str)
def test_bad_optimizer(name, options, error, words):
    with pytest.raises(error) as caught:
        getattr(fm, name)(**options)
    assert_message(caught, words)


BAD_UPDATES = [
    ({"gradient": zeros(4, 6)}, ValueError, ["gradient", "(4, 6)", "(6, 4)"]),
    ({"gradient": zeros(4)}, ValueError, ["gradient", "(4,)", "(6, 4)"]),
    ({"gradient": zeros(6, 4, dtype=F64)}, TypeError, ["gradient", *FLOATS, ".astype("]),
    ({"gradient": zeros(6, 4, dtype=np.int64)}, TypeError, ["gradient", "int64", "float32", ".astype("]),
    host(NOT_CARRIED, {"parameter": read_only(6, 4)}, ValueError, ["parameter", "read-only", "writable"]),
    ({"parameter": zeros(4, 6).T}, ValueError, ["parameter", "contiguous"]),
    ({"parameter": [[0.0] * 4] * 6}, TypeError, ["parameter", "list", "array"]),
    ({"parameter": zeros(5, 4), "gradient": zeros(5, 4)}, ValueError, ["state", "(6, 4)", "(5, 4)"]),
]


@pytest.mark.parametrize(
    "change, error, words",
    BAD_UPDATES,
    ids=[f"{next(iter(getattr(row, 'values', row)[0]))}{i}" for i, row in enumerate(BAD_UPDATES)],
)
def test_bad_update(backend, change, error, words, rng):
    """The parameter stays as it was, and so does the state: the next good update is the first one."""
    parameter, gradient = rng.normal(size=(2, 6, 4)).astype(F32)
    optimizer, alone = fm.Adam(), parameter.copy()
    state = optimizer.init(parameter)
    arguments = {"parameter": parameter, "gradient": gradient} | change
    before = snapshot(arguments)
    with pytest.raises(error) as caught:
        backend.update_inplace(optimizer, arguments["parameter"], arguments["gradient"], state)
    assert_message(caught, words)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array, err_msg=name)
    backend.update_inplace(optimizer, parameter, gradient, state)
    backend.update_inplace(optimizer, alone, gradient, optimizer.init(alone))
    np.testing.assert_array_equal(parameter, alone)


@pytest.mark.parametrize("dtype", [np.int64, np.float16], ids=["int64", "float16"])
def test_state_of_a_bad_parameter(dtype):
    with pytest.raises(TypeError) as caught:
        fm.Adam().init(zeros(6, 4, dtype=dtype))
    assert_message(caught, ["parameter", np.dtype(dtype).name, "float32"])


@pytest.mark.parametrize("maker", ["leaky_relu", "elu", "softplus"])
def test_unknown_activation_option(maker):
    with pytest.raises(TypeError) as caught:
        getattr(fm.activations, maker)(gain=1.0)
    assert_message(caught, ["gain"])


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: fm.activations.leaky_relu(slope=[1.0]), TypeError, ["leaky_relu", "slope", "[1.0]"]),
        (lambda: fm.activations.leaky_relu(slope=np.inf), ValueError, ["leaky_relu", "slope", "inf"]),
        (lambda: fm.activations.softplus(beta=0), ValueError, ["softplus", "beta", "above 0"]),
        (lambda: fm.losses.huber(delta=-1), ValueError, ["huber", "delta", "-1", "above 0"]),
        (lambda: fm.losses.huber(foo=3), TypeError, ["huber", "foo", "delta"]),
        (lambda: fm.losses.mse(delta=1), TypeError, ["mse", "delta", "none"]),
        (lambda: fm.losses.get(OWN_LOSS), ValueError, ["loss", "'mse'", "formulas"]),
    ],
    ids=map(str, range(7)),
)
def test_bad_parameters(make, error, words):
    with pytest.raises(error) as caught:
        make()
    assert_message(caught, words)


def test_a_record_of_scope_row_saves_its_output():
    with pytest.raises(ValueError, match=r"softmax.*preactivation"):
        dataclasses.replace(fm.activations.softmax, saves="preactivation")


def test_unknown_activation_by_get():
    with pytest.raises(ValueError) as caught:
        fm.activations.get("relo")
    assert_message(caught, ["relo", *NAMES])


def test_unknown_backend():
    with pytest.raises(ValueError) as caught:
        fm.get_backend("tpu")
    assert_message(caught, ["tpu", "python", "cpu", "cuda"])
