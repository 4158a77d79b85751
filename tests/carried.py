"""A device's backend as NumPy sees it, so that the suite, whose arrays are NumPy's, runs on a device as well.

Each call brings its arrays to the device as they lie on the host: what shares memory there does so here, and strides,
gaps and odd addresses are the same. After the call, and after an error too, the host's memory is made what the
device's has become: a write to an input, or beside an array, is seen. Results come back as NumPy's.
"""

import copy
import ctypes
import functools
from contextlib import contextmanager

import numpy as np

from fusedmlp.backends.backend import State
from oracle import KERNELS

CARRIED = ("dense", *KERNELS, "state", "update_inplace")


class Carried:
    """A backend whose kernels take and give NumPy's arrays; all else is that of `bare`, the backend itself. `allocated`
    has the bytes of each allocation on the device that the last kernel made."""

    def __init__(self, bare):
        self.bare = bare
        self.allocated = []

    def __getattr__(self, name):
        found = getattr(self.bare, name)
        return self._carried(found) if name in CARRIED else found

    def _carried(self, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            journey = Journey(self.memory)
            try:
                args, kwargs = [*map(journey.there, args)], {name: journey.there(kwargs[name]) for name in kwargs}
                with allocations(self.memory) as self.allocated:
                    result = function(*args, **kwargs)
                return journey.back(result, self._carried)
            finally:
                journey.end()

        return call


class Journey:
    """The arrays of one call: from the host to the device and back."""

    def __init__(self, memory):
        self._memory = memory
        self._roots = {}  # by id: the array that owns the memory of others, its bytes, and their like on the device
        self._pairs = []  # of what is there and what it is here

    def there(self, value):
        """A value as the kernel gets it. What is no plain array of numbers stays what it is."""
        if isinstance(value, State):
            known = copy.copy(value)
            known.slots = tuple(map(self.there, value.slots))
            self._pairs.append((known, value))
            return known
        if type(value) is not np.ndarray or value.dtype.kind not in "biufc":
            return value
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        if id(root) not in self._roots:
            lent = bytes_of(root)
            self._roots[id(root)] = root, lent, self._memory.to_device(lent)
        _, lent, buffer = self._roots[id(root)]
        made = laid_out(buffer, value, value.ctypes.data - lent.ctypes.data)
        self._pairs.append((made, value))
        return made

    def back(self, result, wrap):
        """A kernel's answer; a function among it is wrapped."""
        for there, here in self._pairs:
            if there is result:
                return here
        if result is None:
            return None
        if isinstance(result, tuple):
            return tuple(self.back(part, wrap) for part in result)
        if isinstance(result, State):
            here = copy.copy(result)
            here.slots = tuple(self.back(slot, wrap) for slot in result.slots)
            return here
        if callable(result):
            return wrap(result)
        assert isinstance(result, self._memory.library.ndarray), f"a result that is a {type(result).__name__}"
        assert result.flags.c_contiguous, "a result that is not contiguous"
        here = self._memory.to_host(result)
        self._pairs.append((result, here))
        return here

    def end(self):
        """What was written there is written here."""
        for root, lent, buffer in self._roots.values():
            now = self._memory.to_host(buffer)
            assert root.flags.writeable or np.array_equal(now, lent), "a read-only array was written"
            lent[...] = now
        for there, here in self._pairs:
            if isinstance(there, State):
                here.steps = there.steps


@contextmanager
def allocations(memory):
    """A list of the bytes of each allocation on the device from here on."""
    if hasattr(memory, "allocations"):
        memory.allocations = []
        yield memory.allocations
        return
    sizes = []

    class Listener(memory.library.cuda.MemoryHook):
        name = "tests/carried.py"

        def malloc_preprocess(self, **known):
            sizes.append(known["size"])

    with Listener():
        yield sizes


def bytes_of(array):
    """The memory between an array's first byte and its last, as an array."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def laid_out(buffer, array, start):
    """An array of the buffer's library with the shape, dtype and strides of `array`, `start` bytes into the buffer."""
    if isinstance(buffer, np.ndarray):
        return type(buffer)(array.shape, array.dtype, buffer, start, array.strides)
    return type(buffer)(array.shape, array.dtype, buffer.data + start, array.strides)
