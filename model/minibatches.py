"""The order in which training takes the rows, and the batches that it makes of them."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np

from fusedmlp.kernels.random import permutations
from fusedmlp.model import checks


def row_orders(rows: int, shuffle: bool, seed: int, first: int, epochs: int) -> Iterator[np.ndarray]:
    """The rows' numbers in the order of each of so many epochs, from the first on: int64 (rows,). An epoch's depends on
    its number, and on nothing but these arguments."""
    return permutations(rows, seed, first, epochs) if shuffle else repeat(np.arange(rows, dtype=np.int64), epochs)


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
    order = next(row_orders(len(x), shuffle, checks.seed(seed), checks.whole("epoch", epoch, 0), 1))
    return ((x[rows], y[rows]) for rows in (order[k : k + batch_size] for k in range(0, len(x), batch_size)))
