"""The order in which training takes the rows, and the batches that it makes of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fusedmlp.kernels.random import permutation
from fusedmlp.model import checks


def row_order(rows: int, shuffle: bool, seed: int, epoch: int) -> np.ndarray:
    """The rows' numbers in an epoch's order: int64 (rows,). It depends on nothing but these arguments."""
    return permutation(rows, seed, epoch) if shuffle else np.arange(rows, dtype=np.int64)


def batches(
    x: Any, y: Any, batch_size: int, *, shuffle: bool = True, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches (x, y) that `fit(x, y, batch_size=batch_size, shuffle=shuffle, seed=seed)` takes in `epoch`.

    x, y    arrays, or what becomes one, with as many rows; their dtypes are kept
    epoch   counted from 0
    yields  arrays of batch_size rows, the last of what is left
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"x and y: expected as many rows in both, got shapes {x.shape} and {y.shape}")
    batch_size = checks.whole("batch_size", batch_size, 1)
    order = row_order(len(x), shuffle, checks.seed(seed), checks.whole("epoch", epoch, 0))
    return ((x[rows], y[rows]) for rows in (order[k : k + batch_size] for k in range(0, len(x), batch_size)))
