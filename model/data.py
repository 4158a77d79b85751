"""What people have becomes what the executors take: C-contiguous arrays of the model's dtype, converted once.

`memory` is that of the model's backend. An array that lies there stays there; all else becomes an array of the
processor's memory, which the executor brings where it is needed.
"""

from numbers import Integral, Real
from typing import Any

import numpy as np

from fusedmlp.backends import arrays
from fusedmlp.backends.arrays import Array, Memory
from fusedmlp.backends.backend import check_classes, check_labels
from fusedmlp.backends.feed import Data
from fusedmlp.kernels.losses import Loss
from fusedmlp.kernels.program import Network, fused_output

HOST = Memory()


def prepare(
    network: Network, dtype: np.dtype, loss: Loss, x: Any, y: Any, sample_weight: Any = None, memory: Memory = HOST
) -> Data:
    """x, y and the sample weights of at least one row, as `Data`, in one memory. The model's answers and the truths
    must go with the loss. Raises TypeError for what is not numbers, or for arrays on several devices, and ValueError
    for a wrong shape or value."""
    fused_output(network, loss)
    device = arrays.common_device({"x": x, "y": y, "sample_weight": sample_weight})
    given = inputs(x, network.sizes[0], dtype, memory)
    rows = as_rows(given)
    if not len(rows):
        raise ValueError(f"x: expected at least one row, got shape {given.shape}")
    truth, labels = truths(y, len(rows), network.sizes[-1], dtype, loss, given.ndim == 1, memory)
    made = Data(rows, truth, labels, weights(sample_weight, len(rows), dtype, memory))
    return made.each(memory.to_device) if device == memory.device else made


def inputs(x: Any, columns: int, dtype: np.dtype, memory: Memory = HOST) -> Array:
    """x as the executors take it: (N, columns), or (columns,) for one row."""
    ready = memory.ready(x, dtype)  # as most are that are handed over: then the rest costs more than the test
    array = x if ready else numbers("x", x, memory)
    if array.ndim not in (1, 2) or array.shape[-1] != columns:
        hint = f"; for {len(array)} rows of one column pass x[:, None]" if array.ndim == columns == 1 else ""
        raise ValueError(f"x: expected shape (N, {columns}), or ({columns},) for one row, got {array.shape}{hint}")
    return array if ready else settled(array, dtype, memory)


def as_rows(array: Array) -> Array:
    """(N, columns) of it, or of one row (columns,)."""
    return array[None] if array.ndim == 1 else array


def settled(array: Array, dtype: np.dtype, memory: Memory) -> Array:
    """As the executors take it; itself where it is that already."""
    return (memory if memory.holds(array) else HOST).settled(array, dtype)


def truths(
    y: Any, rows: int, outputs: int, dtype: np.dtype, loss: Loss, one_row: bool = False, memory: Memory = HOST
) -> tuple[Array | None, Array | None]:
    """(truth, labels): numbers (N, O) and None, or None and class indices int64 (N,).

    A loss over rows takes class indices (N,) of any integer dtype, or probability rows (N, O). The others take (N, O),
    or (N,) where O is 1. With `one_row` the leading 1 may be missing.
    """
    array = numbers("y", y, memory)
    by_class = loss.scope == "row"
    if one_row and array.shape in ((), (outputs,)) and not (by_class and array.shape == (1,)):
        array = array[None]
    if by_class and array.ndim == 1:
        indices = array.astype(np.int64) if array.dtype == np.bool_ else array
        check_labels("y", indices, rows, outputs, dtype)
        check_classes("y", indices, outputs)
        return None, settled(indices, np.dtype(np.int64), memory)
    if not by_class and outputs == 1 and array.shape == (rows,):
        array = array[:, None]
    if array.shape != (rows, outputs):
        vector = "class indices " if by_class else "" if outputs == 1 else None
        also = "" if vector is None else f" or {vector}({rows},)"
        hint = "; pass y.ravel()" if by_class and array.shape == (rows, 1) else ""
        raise ValueError(f"y: expected shape ({rows}, {outputs}){also}, one row for each of x, got {np.shape(y)}{hint}")
    if loss.logits is not None and ((array < 0).any() or (array > 1).any()):
        raise ValueError(
            f"y: expected probabilities from 0 to 1 for {loss.name}, got values from {array.min()} to {array.max()}"
        )
    return settled(array, dtype, memory), None


def weights(sample_weight: Any, rows: int, dtype: np.dtype, memory: Memory = HOST) -> Array | None:
    """The sample weights as (N,): finite, none below 0, not all 0."""
    if sample_weight is None:
        return None
    array = numbers("sample_weight", sample_weight, memory)
    if array.shape != (rows,):
        raise ValueError(f"sample_weight: expected shape ({rows},), one for each row of x, got {array.shape}")
    made = settled(array, dtype, memory)
    if not np.isfinite(made).all() or (made < 0).any() or not made.any():
        raise ValueError(
            f"sample_weight: expected finite weights of at least 0, not all of them 0, "
            f"got values from {array.min()} to {array.max()}"
        )
    return made


def numbers(name: str, value: Any, memory: Memory = HOST) -> Array:
    """`value` as an array of booleans, integers or floats: an array of any library in `memory` or in the processor's, a
    DataFrame, a list, a number. TypeError naming the argument for anything else."""
    if arrays.is_array(value) and arrays.device_of(value) == memory.device != HOST.device:
        array = memory.view(name, value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected numbers, got {type(value).__name__} of {array.dtype}")
        return array
    try:
        array = np.asanyarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors elsewhere, or with a history
        raise TypeError(f"{name}: expected numbers, got {type(value).__name__} that is no array: {error}") from error
    array = arrays.unmasked(name, array)
    if array.dtype == object and array.size and all(isinstance(v, Real | np.bool_) for v in array.flat):
        whole = all(isinstance(v, Integral) for v in array.flat)
        array = array.astype(np.int64 if whole else np.float64)  # a DataFrame whose columns are of different kinds
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got {type(value).__name__} of {array.dtype}")
    return array
