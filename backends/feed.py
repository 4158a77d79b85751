"""The data of a run, and how they reach its calls."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusedmlp.backends.arrays import Array, Memory


@dataclass(frozen=True)
class Data:
    """What a run reads, contiguous and of the compute dtype: x (N, I), truth (N, O) or class labels int64 (N,), and
    sample weights (N,) or None."""

    x: Array
    truth: Array | None = None
    labels: Array | None = None
    weights: Array | None = None

    def parts(self) -> list[Array]:
        """The arrays that there are."""
        return [part for part in (self.x, self.truth, self.labels, self.weights) if part is not None]

    def each(self, change: Callable[[Array], Array]) -> "Data":
        """The same of other arrays: `change` of each that there is."""
        rest = (None if part is None else change(part) for part in (self.truth, self.labels, self.weights))
        return Data(change(self.x), *rest)


class Feed:
    """What brings data to the calls of one epoch after the other. Here they lie in the backend's memory, all of them.

    longest  the most steps of a call, which may not go beyond a multiple of it
    """

    longest = 2**62

    def __init__(self, memory: Memory, data: Data) -> None:
        self._memory, self._data = memory, data
        self._order: Array = None

    def begin(self, order: np.ndarray) -> "Feed":
        """An epoch begins, whose step s takes the rows order[s batch : (s + 1) batch] of the data; int64."""
        self._order = self._memory.renewed(self._order, order)
        return self

    def steps(self, first: int, last: int) -> tuple[Data, Array, int]:
        """For these steps: the data, the order of their rows in it, and the number that the first step has in it."""
        return self._data, self._order, first

    def ahead(self, first: int) -> None:
        """The steps from `first` on will be asked for next."""

    def close(self) -> None:
        """No more will be asked for: what was begun ahead ends before its memory goes."""
