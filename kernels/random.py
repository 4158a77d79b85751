"""Random numbers that depend on what they are for, not on when or where they are drawn.

Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter and a key into four words of 32 bits. The key is the seed; the counter says whose number it is: logical row
and column, epoch, and a stream for each use. So batch order and initial weights are the same on every backend,
whoever makes which part of them, and in which order.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MASK = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
# What the key grows by from round to round: the golden ratio, and the square root of 3 less 1, in 32 bits.
WEYL = (0x9E3779B9, 0xBB67AE85)

# What a number is for: the upper half of its stream. The lower half tells layers apart.
ORDER, WEIGHT, BIAS = 0, 1, 2

AT_A_TIME = 8192  # numbers whose words are made at once: they stay in cache, and NumPy's calls take little beside them


def philox(row: Any, column: Any, epoch: Any, stream: Any, low: Any, high: Any) -> tuple[Any, Any, Any, Any]:
    """The four words of a counter (row, column, epoch, stream) under the key (low, high), all below 2**32.

    Takes Python integers and arrays of uint64 or int64, which broadcast. A product may wrap around and the shift that
    follows it may copy the sign: the masks leave the same 32 bits in every case.
    """
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * row, MULTIPLIERS[1] * epoch
        row, column, epoch, stream = (
            ((right >> 32) & MASK) ^ column ^ low,
            right & MASK,
            ((left >> 32) & MASK) ^ stream ^ high,
            left & MASK,
        )
        low, high = (low + WEYL[0]) & MASK, (high + WEYL[1]) & MASK
    return row, column, epoch, stream


def stream(use: int, number: int = 0) -> int:
    """The stream of a use (ORDER, WEIGHT, BIAS) and a number below 2**16, such as a layer's."""
    return use << 16 | number


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The rows 0 to n - 1 in the order of an epoch: int64 (n,). Each row draws a key of 64 bits; equal keys, should
    they ever come, keep the rows' order."""
    return next(permutations(n, seed, epoch, 1))


def permutations(n: int, seed: int, first: int, count: int) -> Iterator[np.ndarray]:
    """Those of so many epochs, from the first on. Where rows are few, some epochs are drawn at once; what was given out
    is held no longer."""
    together = max(1, AT_A_TIME // max(1, n))
    for start in range(first, first + count, together):
        epochs = range(start, min(start + together, first + count))
        orders = deque(map(ranked, _order_keys(n, seed, epochs)))
        while orders:
            yield orders.popleft()


def _order_keys(n: int, seed: int, epochs: range) -> np.ndarray:
    """The keys by which rows are sorted: uint64 (epochs, n)."""
    epoch = np.array([number & MASK for number in epochs], np.uint64)[:, None]
    keys = np.empty((len(epochs), n), np.uint64)
    for first in range(0, n, AT_A_TIME):
        row = np.arange(first, min(first + AT_A_TIME, n), dtype=np.uint64)
        high, low, _, _ = philox(row & MASK, row >> 32, epoch, stream(ORDER), *_key(seed))
        keys[:, first : first + AT_A_TIME] = high << 32 | low
    return keys


def ranked(keys: np.ndarray) -> np.ndarray:
    """The rows of some keys, uint64 (n,), from the smallest to the greatest: as a stable argsort has them, in half the
    time. What is sorted are numbers, the key above and the row below; two rows whose keys agree in all that is left of
    them above are told apart by argsort."""
    bits = len(keys).bit_length()
    numbers = np.sort(keys >> bits << bits | np.arange(len(keys), dtype=np.uint64))
    order, above = (numbers & (1 << bits) - 1).astype(np.int64), numbers >> bits
    same = above[1:] == above[:-1]
    if same.any():
        (places,) = np.nonzero(np.append(same, False) | np.append(False, same))
        order[places] = order[places][np.argsort(keys[order[places]], kind="stable")]
    return order


def uniform(shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Numbers from [0, 1), each a multiple of 2**-53: float64 of shape (rows,) or (rows, columns)."""
    return _drawn(shape, seed, stream, lambda a, b, c, d: _unit(a, b))


def normal(shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Numbers of mean 0 and variance 1: float64 of shape (rows,) or (rows, columns).

    Box and Muller, "A note on the generation of random normal deviates", 1958; 1 - u is never 0.
    """
    return _drawn(shape, seed, stream, _box_muller)


def _box_muller(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.sqrt(-2.0 * np.log(1.0 - _unit(a, b))) * np.cos(2.0 * math.pi * _unit(c, d))


def _drawn(shape: tuple[int, ...], seed: int, stream: int, number: Callable[..., np.ndarray]) -> np.ndarray:
    """What `number` makes of four words, for each element those of its row and column; a vector is one column."""
    made = np.empty(math.prod(shape))
    columns = np.uint64(shape[1] if len(shape) == 2 else 1)
    for first in range(0, len(made), AT_A_TIME):
        row, column = np.divmod(np.arange(first, min(first + AT_A_TIME, len(made)), dtype=np.uint64), columns)
        made[first : first + AT_A_TIME] = number(*philox(row, column, np.zeros_like(row), stream, *_key(seed)))
    return made.reshape(shape)


def _unit(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """53 bits of two words as a number from [0, 1)."""
    return (high << 21 | low >> 11) * 2.0**-53


def _key(seed: int) -> tuple[int, int]:
    return seed & MASK, seed >> 32 & MASK
