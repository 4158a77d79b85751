"""Data that have no room on the device: while one block of steps is worked on, the rows of the next one are gathered in
pinned memory and copied."""

from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.errors import OutOfMemory
from fusedmlp.backends.feed import Data, Feed

BLOCK = 64 << 20  # bytes of each of two blocks, on the host and on the device; but a batch at least


class Staged(Feed):
    """A feed of data in the processor's memory. On the device a block of steps lies as it is read, row after row."""

    def __init__(self, driver: Any, data: Data, batch: int) -> None:
        super().__init__(driver.memory, data)
        self._batch = batch
        row = sum(part[:1].nbytes for part in data.parts())
        self.longest = max(1, BLOCK // (row * batch))
        self._copier = driver.copier()
        rows = min(len(data.x), self.longest * batch)
        blocks = 2 if len(data.x) > rows else 1
        self._in_turn = self._memory.to_device(np.arange(rows, dtype=np.int64))
        try:
            self._slots = [_Slot(self._memory, data, rows) for _ in range(blocks)]
        except OutOfMemory as error:
            fits = min(error.free // (2 * row), batch - 1) if self.longest == 1 else None
            raise OutOfMemory(error.asked, error.free, fits) from None

    def begin(self, order: np.ndarray) -> Feed:
        self._order = order
        for slot in self._slots:
            slot.number = -1
        self._entered, self._left = -1, self._memory.moment()
        return self

    def steps(self, first: int, last: int) -> tuple[Data, Array, int]:
        number = first // self.longest
        self._bring(number)
        self._copier.join()
        if number != self._entered:  # all work on the block before was launched by now
            self._entered, self._left = number, self._memory.moment()
        slot = self._slots[number % len(self._slots)]
        return slot.here, self._in_turn[: slot.rows], first - number * self.longest

    def ahead(self, first: int) -> None:
        """The next block takes the place of the one before that which is being worked on."""
        number = (first - 1) // self.longest + 1
        if number * self.longest * self._batch < len(self._order):
            self._bring(number)

    def close(self) -> None:
        self._copier.wait()

    def _bring(self, number: int) -> None:
        slot = self._slots[number % len(self._slots)]
        if slot.number == number:
            return
        rows = self._order[number * self.longest * self._batch : (number + 1) * self.longest * self._batch]
        self._copier.wait()
        for part, pinned, here in zip(self._data.parts(), slot.pinned, slot.here.parts(), strict=True):
            np.take(part, rows, axis=0, out=pinned[: len(rows)], mode="clip")  # mode: "raise" would copy once more
            self._copier.copy(here[: len(rows)], pinned[: len(rows)], after=self._left)
        slot.number, slot.rows = number, len(rows)


class _Slot:
    """Room for a block of steps: `pinned` on the host, `here` on the device; and which block it holds."""

    def __init__(self, memory: Any, data: Data, rows: int) -> None:
        self.pinned = [memory.pinned((rows, *part.shape[1:]), part.dtype) for part in data.parts()]
        self.here = data.each(lambda part: memory.empty((rows, *part.shape[1:]), part.dtype))
        self.number, self.rows = -1, 0
