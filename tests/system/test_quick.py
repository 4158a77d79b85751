"""Small calls: the quick way gives the bits of the way of all backends, and takes nothing but what is its."""

import copy
import pickle
import threading

import numpy as np
import pytest

import fusedmlp as fm
from fusedmlp.backends.backend import Backend
from fusedmlp.kernels import activations, losses

pytestmark = pytest.mark.usefixtures("typed")

ROWS, INPUTS, OUTPUTS = 5, 7, 3
KERNELS = ("dense_forward", "dense_backward", "cross_entropy", "_element_loss", "update_inplace")
ELEMENT_LOSSES = [name for name, rule in losses.REGISTRY.items() if rule.scope == "element" and not rule.parameters]
OPTIMIZERS = (
    fm.SGD(),
    fm.SGD(momentum=0.9, nesterov=True),
    fm.Adam(),
    fm.AdamW(),
    fm.RMSprop(),
    fm.RMSprop(momentum=0.5),
)


class Given:
    """Arrays that fit each other."""

    def __init__(self, dtype="float32"):
        rng = np.random.default_rng(1)

        def normal(*shape):
            return rng.normal(size=shape).astype(dtype)

        self.x, self.w, self.b = normal(ROWS, INPUTS), normal(OUTPUTS, INPUTS), normal(OUTPUTS)
        self.dy, self.saved, self.target = normal(ROWS, OUTPUTS), normal(ROWS, OUTPUTS), normal(ROWS, OUTPUTS)
        self.labels = rng.integers(0, OUTPUTS, ROWS)


@pytest.fixture
def cpu():
    return fm.get_backend("cpu")


@pytest.fixture
def ways(monkeypatch):
    """Which kernels went the way of all backends."""
    taken = []
    for name in KERNELS:
        kernel = getattr(Backend, name)

        def way(*args, _name=name, _kernel=kernel, **kwargs):
            taken.append(_name)
            return _kernel(*args, **kwargs)

        monkeypatch.setattr(Backend, name, way)
    return taken


def same(found, expected):
    """Bit for bit, with the same dtypes and shapes."""
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            assert type(one) is np.ndarray and one.dtype == other.dtype and one.shape == other.shape
            assert one.tobytes() == other.tobytes()


def both_ways(cpu, ways, kernel, *args, **kwargs):
    """The quick way's answer, which is that of the other."""
    found = getattr(cpu, kernel)(*args, **kwargs)
    assert ways == []
    same(found, getattr(Backend, kernel)(cpu, *args, **kwargs))
    ways.clear()
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", activations.REGISTRY)
def test_dense(cpu, ways, activation, dtype):
    given = Given(dtype)
    for bias in (given.b, None):
        for return_saved in (False, True):
            both_ways(cpu, ways, "dense_forward", given.x, given.w, bias, activation, return_saved=return_saved)
    out = np.empty((ROWS, OUTPUTS), dtype)
    assert cpu.dense_forward(given.x, given.w, given.b, activation, out=out) is out and not ways
    same(out, cpu.dense_forward(given.x, given.w, given.b, activation))
    for need_dx in (True, False):
        arrays = given.dy, given.x, given.w, given.saved
        both_ways(cpu, ways, "dense_backward", *arrays, activation, need_dx=need_dx)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses(cpu, ways, reduction, dtype):
    given = Given(dtype)
    both_ways(cpu, ways, "cross_entropy", given.dy, given.labels, reduction=reduction)
    for name in ELEMENT_LOSSES:
        both_ways(cpu, ways, "_element_loss", losses.get(name), "prediction", given.dy, given.target, reduction, None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers(cpu, ways, optimizer, dtype):
    quick, other = Given(dtype), Given(dtype)
    for name, gradient in (("w", quick.x[:OUTPUTS].copy()), ("b", quick.target[0].copy())):
        parameter, expected = getattr(quick, name), getattr(other, name)
        state, expected_state = optimizer.init(parameter), optimizer.init(expected)
        for step in range(1, 4):
            optimizer.update_inplace(parameter, gradient, state)
            assert not ways and state.steps == step
            Backend.update_inplace(cpu, optimizer, expected, gradient, expected_state)
            ways.clear()
            same((parameter, *state.slots), (expected, *expected_state.slots))


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


class Subclass(np.ndarray):
    pass


NEEDS_A_LOOK = {
    "strided": strided,
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "subclass": lambda array: array.view(Subclass),
    "swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "unaligned": lambda array: np.frombuffer(bytearray(b"." + array.tobytes()), array.dtype, offset=1).reshape(
        array.shape
    ),
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "other dtype": lambda array: array.astype(np.float64 if array.dtype == np.float32 else np.int32),
    "list": lambda array: array.tolist(),
    "none": lambda array: None,
    "a dimension more": lambda array: array[None],
    "a row more": lambda array: np.concatenate([array, array[:1]]),
    "no rows": lambda array: array[:0],
}


def by_loss(cpu, *args):
    return Backend._element_loss(cpu, losses.get("mse"), "prediction", *args, "mean", None)


# Of each kernel: what it takes, and the way of all backends.
TAKES = {
    "dense_forward": (lambda g: [g.x, g.w, g.b], lambda cpu, *args: Backend.dense_forward(cpu, *args)),
    "dense_backward": (
        lambda g: [g.dy, g.x, g.w, g.saved, "relu"],
        lambda cpu, *args: Backend.dense_backward(cpu, *args),
    ),
    "cross_entropy": (lambda g: [g.dy, g.labels], lambda cpu, *args: Backend.cross_entropy(cpu, *args)),
    "mse": (lambda g: [g.dy, g.target], by_loss),
}
GOES_AS = {"mse": "_element_loss"}
# What fits all the same.
FITS = {("dense_forward", 2, "none"), ("dense_forward", 0, "a row more"), ("cross_entropy", 0, "other dtype")}


def answer(way, *args, **kwargs):
    """What it returns, or the error that it raises, in words."""
    try:
        return way(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def alike(found, expected):
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        same(found, expected)


@pytest.mark.parametrize("look", NEEDS_A_LOOK)
@pytest.mark.parametrize("kernel", TAKES)
def test_what_needs_a_look_gets_it(cpu, ways, kernel, look):
    """Each argument alone: the way of all backends answers, or says what is wrong."""
    takes, other_way = TAKES[kernel]
    for number, array in enumerate(takes(Given())):
        given = takes(Given())
        if isinstance(array, str) or (kernel, number, look) in FITS:
            continue
        given[number] = NEEDS_A_LOOK[look](array)
        if look == "fortran" and array.ndim == 1:
            continue  # contiguous all the same
        ways.clear()
        found = answer(getattr(cpu, kernel), *given)
        assert ways == [GOES_AS.get(kernel, kernel)]
        alike(found, answer(other_way, cpu, *given))


@pytest.mark.parametrize("look", NEEDS_A_LOOK)
def test_what_is_written_gets_a_look(cpu, ways, look):
    """Results, parameters and gradients: nothing is written that should not be."""
    out = np.empty((ROWS, OUTPUTS), np.float32)
    if look != "none":
        found = answer(cpu.dense_forward, *TAKES["dense_forward"][0](Given()), out=NEEDS_A_LOOK[look](out))
        assert ways == ["dense_forward"]
        assert look == "subclass" or found.partition(" out: expected")[1]
    optimizer = fm.SGD(lr=0.5)
    for parameter_is_odd in (True, False):
        g = Given()
        parameter, gradient, state = g.w, g.x[:OUTPUTS].copy(), optimizer.init(g.w)
        odd = NEEDS_A_LOOK[look](parameter if parameter_is_odd else gradient)
        before = parameter.copy()
        ways.clear()
        found = answer(optimizer.update_inplace, *((odd, gradient) if parameter_is_odd else (parameter, odd)), state)
        assert ways == ["update_inplace"]
        if isinstance(found, str):
            assert ": expected" in found
            np.testing.assert_array_equal(parameter, before)
            assert state.steps == 0
        else:
            written = odd if parameter_is_odd else parameter
            np.testing.assert_array_equal(
                np.asarray(written), before - 0.5 * np.asarray(gradient if parameter_is_odd else odd)
            )


@pytest.mark.parametrize("shares", [1, 2], ids=["weight", "bias"])
def test_results_apart_from_inputs(cpu, ways, shares):
    square = [np.ones((OUTPUTS, OUTPUTS), np.float32), np.ones((OUTPUTS, OUTPUTS), np.float32), np.ones(9, np.float32)]
    given = [square[0], square[1], square[2][:OUTPUTS]]
    out = square[shares].reshape(OUTPUTS, OUTPUTS)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own"):
        cpu.dense_forward(*given, out=out)
    assert ways == ["dense_forward"]


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, copy.copy, lambda state: pickle.loads(pickle.dumps(state))],
    ids=["deepcopy", "copy", "pickle"],
)
def test_copies_of_a_state_step_on_slots_of_their_own(copied):
    optimizer, parameter = fm.SGD(lr=0.1, momentum=0.9), np.zeros(3, np.float32)
    state, gradient = optimizer.init(parameter), np.ones(3, np.float32)
    optimizer.update_inplace(parameter, gradient, state)
    other, again = copied(state), np.zeros(3, np.float32)
    other.slots[0][:] = 0
    optimizer.update_inplace(again, gradient, other)
    np.testing.assert_array_equal(other.slots[0], gradient)
    np.testing.assert_array_equal(again, np.float32(-0.1) * gradient)
    assert state.slots[0].tolist() == gradient.tolist() and (state.steps, other.steps) == (1, 2)


def test_steps_must_be_counted():
    optimizer, parameter = fm.Adam(), np.zeros(3, np.float32)
    state = optimizer.init(parameter)
    state.steps = -1
    with pytest.raises(ValueError, match=r"^state: expected steps of at least 0, got -1"):
        optimizer.update_inplace(parameter, np.ones(3, np.float32), state)
    assert parameter.tolist() == [0, 0, 0]
    assert repr(state) == "<state of adam for float32 (3,) after -1 steps>"


@pytest.mark.parametrize(
    "slots, error",
    [
        (lambda slot: (), ValueError),
        (lambda slot: [slot], TypeError),
        (lambda slot: ([0.0],), TypeError),
        (lambda slot: None, TypeError),
        (lambda slot: (slot.astype(np.float64),), TypeError),
        (lambda slot: (slot[:1],), ValueError),
        (lambda slot: (np.asfortranarray(np.ones((2, 3), np.float32)),), ValueError),
        (lambda slot: (read_only(slot),), ValueError),
    ],
)
def test_slots_must_fit(slots, error):
    state = fm.SGD(momentum=0.9).init(np.zeros((2, 3), np.float32))
    before = state.slots
    kept = state.vectors
    with pytest.raises(error, match=r"^slots: expected"):
        state.slots = slots(before[0])
    assert state.vectors is kept and np.shares_memory(state.slots[0], before[0])


def test_what_is_asked_for_beside_the_arrays(cpu, ways):
    """Neither are other ways of a kernel quick, nor are its largest calls."""
    g = Given()
    cpu.dense_forward(g.x, g.w, g.b, activations.relu)
    cpu.dense_forward(g.x, g.w, g.b, "relu", precision="float32")
    cpu.dense_forward(g.x[0].copy(), g.w, g.b)
    cpu.mse(g.dy, g.target, reduction="none")
    cpu.mse(g.dy, g.target, sample_weight=np.ones(ROWS, np.float32))
    cpu.huber(g.dy, g.target)
    cpu.cross_entropy(g.dy, np.full((ROWS, OUTPUTS), 1 / OUTPUTS, np.float32))
    cpu.cross_entropy(g.dy, g.labels.astype(np.int32))
    large = np.ones((100, 100), np.float32)
    cpu.dense_forward(large, large)
    cpu.mse(large, large)
    assert ways == ["dense_forward"] * 3 + ["_element_loss"] * 3 + ["cross_entropy"] * 2 + [
        "dense_forward",
        "_element_loss",
    ]


def test_errors_are_those_of_all_backends(cpu, ways):
    g, optimizer = Given(), fm.SGD()
    with pytest.raises(ValueError, match="unknown activation 'rleu'"):
        cpu.dense_forward(g.x, g.w, g.b, "rleu")
    with pytest.raises(ValueError, match=r"^out: expected memory of its own"):
        square = np.ones((OUTPUTS, OUTPUTS), np.float32)
        cpu.dense_forward(square, g.w[:, :OUTPUTS].copy(), g.b, out=square)
    with pytest.raises(ValueError, match=r"^target: expected class indices from 0 to 2"):
        cpu.cross_entropy(g.dy, g.labels + OUTPUTS)
    with pytest.raises(ValueError, match=r"^reduction: expected one of"):
        cpu.mse(g.dy, g.target, reduction="average")
    with pytest.raises(TypeError, match=r"^state: expected what SGD.init gave"):
        cpu.update_inplace(optimizer, g.w, g.w.copy(), None)
    with pytest.raises(ValueError, match=r"^parameter: expected memory of its own"):
        cpu.update_inplace(optimizer, g.w, g.w, optimizer.init(g.w))
    assert np.isnan(cpu.cross_entropy(np.full_like(g.dy, np.nan), g.labels)[0])


def test_each_thread_has_its_own(cpu):
    """Two threads at once, over the same arrays: what a call is entered with holds scratch."""
    g, found = Given(), {}
    expected = cpu.dense_backward(g.dy, g.x, g.w, g.saved, "gelu")

    def work(name):
        found[name] = [cpu.dense_backward(g.dy, g.x, g.w, g.saved, "gelu") for _ in range(2000)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for answers in found.values():
        for found_there in answers:
            same(found_there, expected)
