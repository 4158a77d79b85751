"""Small trainings below the trainer: a network, a plan and an executor, so that a test says which worker does what."""

import numpy as np
import pytest

from fusedmlp.backends.errors import NonFinite
from fusedmlp.backends.feed import Data
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels import activations, losses, optimizers
from fusedmlp.kernels.program import Network

SIZES = (7, 40, 19, 3)  # odd, more than one line of cache, and with a share of no column for some worker


def network(sizes=SIZES, hidden="tanh", output="identity", bias=True):
    names = [hidden] * (len(sizes) - 2) + [output]
    return Network(tuple(sizes), tuple(activations.get(name) for name in names), bias)


def data(sizes=SIZES, rows=53, dtype="float32", seed=1, labels=False, weights=False):
    """Random rows with a truth of the output's width, or class labels, and positive sample weights if asked for."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, sizes[0])).astype(dtype)
    truth = None if labels else rng.normal(size=(rows, sizes[-1])).astype(dtype)
    classes = rng.integers(0, sizes[-1], rows) if labels else None
    shares = rng.uniform(0.5, 1.5, rows).astype(dtype) if weights else None
    return Data(x, truth, classes, shares)


def executor(backend, given=None, partition="out", workers=1, dtype="float32", seed=2):
    """An executor of a network, with random parameters. `partition` is one for all layers, or one for each."""
    given = given or network()
    partitions = (partition,) * given.layers if isinstance(partition, str) else tuple(partition)
    made = backend.executor(given, dtype, Plan(workers, partitions))
    rng = np.random.default_rng(seed)
    made.write({name: 0.5 * rng.normal(size=shape) for name, shape in given.parameters()})
    return made


def epoch(made, given, *, loss="mse", optimizer=None, batch=8, order=None, steps=None, in_order=False):
    """The calls of one epoch, or of its first `steps` steps: an iterator over the losses of each call."""
    order = np.arange(len(given.x), dtype=np.int64) if order is None else order
    if steps is not None:
        order = order[: steps * batch]
    rows = np.minimum(batch, len(order) - np.arange(0, len(order), batch))
    return made.train(
        given,
        order,
        loss=losses.get(loss),
        optimizer=optimizer or optimizers.Adam(lr=0.01),
        batch_size=batch,
        factors=1.0 / rows,
        in_order=in_order,
    )


def trained(made, given, *, epochs=1, optimizer=None, **options):
    """Trains to the end, and returns every step's loss and the parameters."""
    optimizer = optimizer or optimizers.Adam(lr=0.01)
    found = [np.empty(0)]
    for _ in range(epochs):
        found += list(epoch(made, given, optimizer=optimizer, **options))
    return np.concatenate(found), made.read()


def stopped_at(made, given, **options):
    """The step at which a run ended because its loss was not finite."""
    with pytest.raises(NonFinite) as caught:
        for _ in epoch(made, given, **options):
            pass
    return caught.value.step


def same(one, other):
    """Whether two sets of parameters are equal to the bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert one[name].tobytes() == other[name].tobytes(), f"{name} differs in the sign of a zero, or in a NaN"
