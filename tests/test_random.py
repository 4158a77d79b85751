"""Philox against its published vectors, and what stands on it."""

import itertools

import numba
import numpy as np
import pytest
from scipy import stats

from fusedmlp.kernels import random
from fusedmlp.kernels.random import AT_A_TIME, normal, permutation, permutations, philox, ranked, uniform

# Random123, kat_vectors, philox4x32 with 10 rounds: counter, key, result.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = [0, 1, 1 << 32, 2**64 - 1]


@numba.njit
def compiled(row, column, epoch, stream, low, high):
    return bound_philox(row, column, epoch, stream, low, high)


bound_philox = numba.njit(philox)


@pytest.mark.parametrize("counter, key, words", VECTORS, ids=["zeros", "ones", "pi"])
def test_published_vectors(counter, key, words):
    assert philox(*counter, *key) == words
    for dtype in (np.uint64, np.int64):
        arrays = [np.array([word, word], dtype) for word in (*counter, *key)]
        assert [word.tolist() for word in philox(*arrays)] == [[word, word] for word in words]
    assert compiled(*counter, *key) == words


def test_a_changed_constant_would_show(monkeypatch):
    monkeypatch.setattr(random, "MULTIPLIERS", (random.MULTIPLIERS[0], random.MULTIPLIERS[1] + 2))
    assert philox(*VECTORS[2][0], *VECTORS[2][1]) != VECTORS[2][2]


def test_arrays_are_many_scalars():
    rows = np.arange(7, dtype=np.uint64)
    together = philox(rows, 3, np.zeros(7, np.uint64), 9, 5, 6)
    alone = [philox(int(row), 3, 0, 9, 5, 6) for row in rows]
    assert np.transpose(together).tolist() == [list(words) for words in alone]


@pytest.mark.parametrize("n", [0, 1, 2, 17, 1797])
def test_permutation_has_every_row_once(n):
    order = permutation(n, seed=3, epoch=1)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutation_is_sorted_by_keys():
    """The rule itself, in plain integers."""
    seed, epoch, n = (7 << 32) + 5, 4, 50
    words = [philox(row, 0, epoch, random.stream(random.ORDER), 5, 7) for row in range(n)]
    keys = [a << 32 | b for a, b, _, _ in words]
    assert permutation(n, seed, epoch).tolist() == sorted(range(n), key=keys.__getitem__)


def test_rows_of_several_blocks_are_sorted_by_their_keys():
    rows, (seed, epoch) = 2 * AT_A_TIME + 5, (3, 1)
    high, low, _, _ = philox(np.arange(rows), 0, epoch, random.stream(random.ORDER), seed, 0)
    keys = high.astype(np.uint64) << 32 | low.astype(np.uint64)
    np.testing.assert_array_equal(permutation(rows, seed, epoch), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("keys", [[], [7], [5, 5, 5], [9, 8, 2**63 + 1, 2**63], [2**64 - 1, 2**64 - 2, 0, 2**64 - 1]])
def test_keys_that_agree_above_the_rows(keys):
    """They differ where the rows' numbers stand, or nowhere."""
    keys = np.array(keys, np.uint64)
    np.testing.assert_array_equal(ranked(keys), np.argsort(keys, kind="stable"))


def test_permutation_depends_on_seed_and_epoch():
    orders = {permutation(40, seed, epoch).tobytes() for seed in SEEDS for epoch in range(4)}
    assert len(orders) == len(SEEDS) * 4


@pytest.mark.parametrize("n", [0, 1, 700, AT_A_TIME // 3, AT_A_TIME + 1])
@pytest.mark.parametrize("first", [0, 2**32 - 5, 2**64 - 3])
def test_epochs_together_have_the_orders_that_each_has(n, first):
    found = list(permutations(n, 3, first, 13))
    assert [order.tolist() for order in found] == [permutation(n, 3, first + k).tolist() for k in range(13)]


def test_permutation_is_fair():
    """Where row 0 lands in 5 places, over 5,000 epochs: chi-square with 4 degrees of freedom."""
    places = [int(np.flatnonzero(permutation(5, 1, epoch) == 0)[0]) for epoch in range(5000)]
    assert stats.chisquare(np.bincount(places, minlength=5)).pvalue > 1e-4


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_number_depends_on_its_row_and_column(draw):
    whole = draw((9, 7), 5, 3)
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(draw((4, 6), 5, 3), whole[:4, :6])
    np.testing.assert_array_equal(draw((9,), 5, 3), whole[:, 0])
    assert draw((0, 7), 5, 3).shape == (0, 7)


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(3, AT_A_TIME + 5), (AT_A_TIME + 5, 3), (2 * AT_A_TIME + 5,)], ids=str)
def test_numbers_of_several_blocks(draw, shape):
    """Blocks end within a row as well; a row's first numbers are those of a narrower matrix."""
    whole = draw(shape, 5, 3)
    narrow = draw((shape[0], 2), 5, 3)
    np.testing.assert_array_equal(whole.reshape(shape[0], -1)[:, :2], narrow[:, : len(shape)])
    few = draw((2, *shape[1:]), 5, 3)
    np.testing.assert_array_equal(whole[:2], few)
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("draw", [uniform, normal])
def test_seeds_and_streams_are_apart(draw):
    drawn = [draw((50, 4), seed, stream) for seed, stream in itertools.product(SEEDS, (0, 1, 1 << 16))]
    numbers = np.concatenate([array.ravel() for array in drawn])
    assert len(np.unique(numbers)) == numbers.size


@pytest.mark.parametrize("draw, distribution", [(uniform, "uniform"), (normal, "norm")])
def test_distribution(draw, distribution):
    """Kolmogorov and Smirnov's test of 40,000 numbers, and no correlation between neighbours in a row or a column."""
    drawn = draw((200, 200), 11, 2)
    assert stats.kstest(drawn.ravel(), distribution).pvalue > 1e-4
    for near in (drawn[1:] * drawn[:-1], drawn[:, 1:] * drawn[:, :-1]):
        mean = drawn.mean() ** 2
        assert abs(near.mean() - mean) < 5 * near.std() / np.sqrt(near.size)


def test_uniform_range():
    drawn = uniform((100_000,), 1, 0)
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert np.array_equal(drawn * 2**53, np.floor(drawn * 2**53))
