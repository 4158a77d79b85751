"""What is handed to compiled code as numbers."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import fusedmlp as fm
import handed_over
from fusedmlp.backends import entries
from fusedmlp.backends.cpu.packing import ARRAY, packed


def call_of(model, x):
    """The call of a prediction, as a model keeps it."""
    model(x)
    (kept,) = model._executor._predictions.values()
    return replace(kept.call, x=x, result=np.empty((len(x), 2), x.dtype))


FAULTS = {
    "order": lambda given: given.astype(np.int32),
    "table": lambda given: given[:, ::2],
    "buffer": lambda given: given.reshape(1, -1),
    "losses": lambda given: given.astype(np.float32),
    "labels": lambda given: np.zeros(0, np.uint64),
    "batch": float,
    "guarded": int,
}


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_arrays_are_seen(name):
    """By the look that the tests of what callers hand over take."""
    call = call_of(fm.MLP([3, 2], backend="cpu"), np.ones((4, 3), np.float32))
    given = dict(zip(entries.parameters("run"), call.arguments(), strict=True))
    handed_over.check("run", call.dtype, given)
    with pytest.raises(TypeError, match=f"^{name}: expected"):
        handed_over.check("run", call.dtype, given | {name: FAULTS[name](given[name])})


def test_what_is_packed_lives_as_long():
    arrays = [np.arange(6.0).reshape(2, 3), np.arange(5)]
    addresses, gone = [array.ctypes.data for array in arrays], [weakref.ref(array) for array in arrays]
    words = packed(7, *arrays)
    arrays.clear()
    gc.collect()
    assert words.tolist() == [7, addresses[0], 2, 3, addresses[1], 5, 1] and len(words) == 1 + 2 * ARRAY
    assert all(reference() is not None for reference in gone)
    del words
    gc.collect()
    assert all(reference() is None for reference in gone)
