"""Single kernels on arrays of CuPy, PyTorch and Numba: where results lie, what is copied, and whose stream is waited
for."""

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from devices import REHEARSED
from oracle import Case

ROWS, INPUTS, OUTPUTS = (7, 5, 6) if REHEARSED else (1000, 300, 200)
GELU = Case("gelu")


@pytest.fixture
def operands(rng):
    """x, weight, bias and dy, as NumPy's."""
    shapes = (ROWS, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,), (ROWS, OUTPUTS)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def check_layer(library, operands, results):
    """y, dx, dweight and dbias of a layer with gelu."""
    x, weight, bias, dy = operands
    y, *gradients = map(library.host, results)
    oracle.dense_forward(x, weight, bias, GELU)[0].check(y, "y")
    expected = oracle.dense_backward(dy, x, weight, bias, GELU)
    for name, right, found in zip(("dx", "dweight", "dbias"), expected, gradients, strict=True):
        right.check(found, name)


def layer(operands):
    x, weight, bias, dy = operands
    y, backprop = fm.dense(x, weight, bias, "gelu")
    return (y, *backprop(dy))


def test_a_layer(library, operands):
    """Its results are right, lie on the device, and are arrays of the caller's library; its inputs are untouched."""
    given = [library.array(array) for array in operands]
    results = layer(given)
    assert all(map(library.owns, results))
    check_layer(library, operands, results)
    for before, array in zip(operands, given, strict=True):
        np.testing.assert_array_equal(library.host(array), before)


def test_inputs_are_not_copied(library, operands, device, monkeypatch):
    """The kernels are given the memory that the caller has."""
    addresses, launch = [], device._driver.launch

    def spy(entry, kind, blocks, arguments, *shared):
        addresses.extend(device.memory.address(a) for a in arguments if device.memory.holds(a) and a.size)
        launch(entry, kind, blocks, arguments, *shared)

    monkeypatch.setattr(device._driver, "launch", spy)
    given = [library.array(array) for array in operands[:3]]
    fm.dense_forward(*given, "gelu")
    assert {library.address(array) for array in given} <= set(addresses)


def test_losses(library, rng):
    """The loss is 0-d and on the device, like its gradient."""
    logits, labels = rng.normal(size=(ROWS, OUTPUTS)).astype(np.float32), rng.integers(0, OUTPUTS, ROWS)
    loss, gradient = fm.cross_entropy(library.array(logits), library.array(labels))
    assert library.owns(loss) and library.owns(gradient)
    assert loss.shape == () and gradient.shape == logits.shape
    for right, found in zip(oracle.loss(Case("cross_entropy"), logits, labels), (loss, gradient), strict=True):
        right.check(np.asarray(library.host(found)))


def test_updates(library, rng):
    """A parameter of the caller's is written where it lies."""
    parameter, gradients = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(3, 9, 4)).astype(np.float32)
    case, given = Case("Adam", {"lr": 0.05}), library.array(parameter)
    optimizer = fm.Adam(lr=0.05)
    state, address = optimizer.init(given), library.address(given)
    for gradient in gradients:
        optimizer.update_inplace(given, library.array(gradient), state)
    assert library.address(given) == address
    *_, expected = oracle.trajectory(case, parameter, gradients)
    expected.check(library.host(given))


def test_out(library, operands):
    x, weight, bias, _ = operands
    out = library.array(np.zeros((ROWS, OUTPUTS), np.float32))
    assert fm.dense_forward(*map(library.array, (x, weight, bias)), "gelu", out=out) is out
    oracle.dense_forward(x, weight, bias, GELU)[0].check(library.host(out))


def test_arrays_on_two_devices(library, operands):
    """Each is named with its place; nothing is carried silently."""
    x, weight, bias, _ = operands
    with pytest.raises(
        TypeError, match="expected all arrays on one device, got x on cuda, weight on cpu, bias on cuda"
    ):
        fm.dense_forward(library.array(x), weight, library.array(bias))
    with pytest.raises(TypeError, match="expected all arrays on one device, got logits on cpu, target on cuda"):
        fm.cross_entropy(x, library.array(np.zeros(ROWS, np.int64)))


def test_a_late_producer(library, operands):
    """What a stream of the caller's has queued before the call is in the inputs: until then they hold NaN. What it
    queues after the call finds the results."""
    true = [library.array(array) for array in operands]
    with library.side_stream():
        given = [library.array(np.full_like(array, np.nan)) for array in operands]
        library.delay()
        for target, source in zip(given, true, strict=True):
            library.overwrite(target, source)
        results = layer(given)
        check_layer(library, operands, results)


def test_what_is_written_for_a_late_producer(library, operands):
    """What a stream of the caller's queues after a call finds what the call wrote into the caller's own arrays."""
    x, weight, bias, _ = operands
    with library.side_stream():
        late, *rest = (library.array(array) for array in (np.full_like(x, np.nan), weight, bias))
        out, true = library.array(np.zeros((ROWS, OUTPUTS), np.float32)), library.array(x)
        library.delay()
        library.overwrite(late, true)
        fm.dense_forward(late, *rest, "gelu", out=out)
        oracle.dense_forward(x, weight, bias, GELU)[0].check(library.host(out))
    with library.side_stream():
        parameter, gradient = library.array(np.ones((9, 4), np.float32)), library.array(np.full((9, 4), np.nan, "f"))
        true, optimizer = library.array(np.full((9, 4), 2, np.float32)), fm.SGD(lr=0.5)
        state = optimizer.init(parameter)
        library.delay()
        library.overwrite(gradient, true)
        optimizer.update_inplace(parameter, gradient, state)
        np.testing.assert_array_equal(library.host(parameter), np.zeros((9, 4)))


def test_late_on_one_stream_of_two(library, operands, rng):
    """Two streams at once, the first of them late: neither disturbs the other's scratch. The backward pass, the loss
    and the products all have some."""
    others = [rng.normal(size=array.shape).astype(np.float32) for array in operands]
    labels = library.array(rng.integers(0, OUTPUTS, ROWS))
    first, second = ([library.array(array) for array in arrays] for arrays in (operands, others))
    alone = [[*map(library.host, layer(given)), library.host(fm.cross_entropy(given[3], labels)[1])]
             for given in (first, second)]  # fmt: skip
    together = []
    with library.side_stream():
        library.delay()
        together.append((*layer(first), fm.cross_entropy(first[3], labels)[1]))
        with library.side_stream():
            together.append((*layer(second), fm.cross_entropy(second[3], labels)[1]))
            found_second = [library.host(array) for array in together[1]]
        found_first = [library.host(array) for array in together[0]]
    for expected, found in zip(alone, (found_first, found_second), strict=True):
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
