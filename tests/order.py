"""What is ordered before what on a device: work on queues, moments of them, and what the host waited for.

A stand-in does all work when it is asked for, in one order, so a missing wait would change no result there. Here each
queue knows how much of every other one lies before what it is given next; work on memory that another queue may still
be at is an AssertionError.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Known = dict[Any, int]  # of each queue, how much of its work


@dataclass(frozen=True)
class Moment:
    """When a queue will have done what it was given so far; `behind` is what lies before that."""

    queue: Any
    behind: Known


@dataclass
class Uses:
    """Of an allocation: the last work of each queue that reads it, and the last that writes it."""

    owner: weakref.ref
    start: int
    end: int
    reads: Known = field(default_factory=dict)
    writes: Known = field(default_factory=dict)


def learn(known, more):
    for queue, number in more.items():
        known[queue] = max(number, known.get(queue, 0))


class Order:
    def __init__(self):
        self._known: dict[Any, Known] = {}
        self._host: Known = {}
        self._uses: dict[int, Uses] = {}

    def moment(self, queue):
        return Moment(queue, dict(self._of(queue)))

    def wait(self, queue, moment):
        """What the queue is given from here on begins after the moment."""
        assert isinstance(moment, Moment), f"queue {queue} is to wait for {moment!r}, which is no moment"
        learn(self._of(queue), moment.behind)

    def host_waits(self, queue):
        """What any queue is given from here on begins after what this one was given so far."""
        learn(self._host, self._of(queue))

    def work(self, what, queue, reads=(), writes=()):
        """Work on these allocations; both are given as arrays of them, or as addresses within."""
        known = self._of(queue)
        read, written = ([uses for uses in map(self.uses, places) if uses] for places in (reads, writes))
        number = known[queue] = known.get(queue, 0) + 1
        for earlier in [uses.writes for uses in (*read, *written)] + [uses.reads for uses in written]:
            for other, last in earlier.items():
                assert known.get(other, 0) >= last, f"{what} on queue {queue} does not wait for what {other} does there"
        for uses in read:
            uses.reads[queue] = number
        for uses in written:
            uses.writes[queue] = number

    def uses(self, place):
        """Of an array's allocation, or of the one around an address; None where none is known there."""
        if not isinstance(place, np.ndarray):
            return next((uses for uses in list(self._uses.values()) if uses.start <= place < uses.end), None)
        while isinstance(place.base, np.ndarray):
            place = place.base
        key = id(place)
        if key not in self._uses:
            start = place.ctypes.data
            gone = weakref.ref(place, lambda _: self._uses.pop(key, None))
            self._uses[key] = Uses(gone, start, start + place.nbytes)
        return self._uses[key]

    def _of(self, queue):
        """What lies before the next work of a queue."""
        known = self._known.setdefault(queue, {})
        learn(known, self._host)
        return known
