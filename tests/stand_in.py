"""A stand-in for a CUDA device: NumPy's memory, Numba's CUDA simulator, and cuBLASLt on NumPy (tests/fake_cublaslt.py).

It shows that the bodies are right on the simulator, with lanes that share tiles, sums and scratch, and that what lies
above the driver's door is right: arrays of the host and of the device are not mixed, queues and copies wait for each
other where they use the same memory (tests/order.py), and what is captured neither allocates, nor waits, nor runs for
the first time. It needs NUMBA_ENABLE_CUDASIM=1 before Numba is first imported.
"""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
from numba import config, cuda

import fusedmlp.backends.cuda
from fake_cublaslt import FakeCublasLt
from fusedmlp import backends
from fusedmlp.backends import entries
from fusedmlp.backends.arrays import Memory
from fusedmlp.backends.binder import Binder
from fusedmlp.backends.cuda import driver
from fusedmlp.backends.cuda import words as words_module
from fusedmlp.backends.cuda.backend import CudaBackend
from fusedmlp.backends.cuda.kinds import Shape
from fusedmlp.backends.cuda.products import Products
from fusedmlp.backends.cuda.words import Device, thread_x, thread_y, words_for
from fusedmlp.backends.errors import OutOfMemory
from fusedmlp.backends.python.words import WORDS as PLAIN
from order import Order

# Tiles of 4 x 4 and 6 x 6, so that small shapes span two of them, by 2 x 2 threads of 4 and 9 elements each. The depth
# divides neither.
TILES = tuple(Shape(edge, (2, 2), 3) for edge in (4, 6))
SHAPES = {np.dtype(dtype): TILES for dtype in (np.float32, np.float64)}

# What a lane does by itself is plain Python.
ALONE = (
    *("const", "exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "finite", "double"),
    *("matrix", "vector", "block", "row"),
)


def simulated(begin, body, arguments):
    """A kernel. The arguments come as one tuple: by themselves arrays would be copied, and written back one over the
    other where two are the same."""
    begin(arguments[0])
    body(*arguments)


# The simulator gives `cuda` its meaning in the globals of the kernel that it launches: those of the words, which speak
# of `cuda`.
KERNEL = FunctionType(simulated.__code__, vars(words_module), "simulated")


def strided(a, at, rows, columns, length):
    return np.lib.stride_tricks.as_strided(a[at:], (rows, columns), (length * a.itemsize, a.itemsize))


class OnDevice(np.ndarray):
    """An array of the stand-in's memory."""

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA


def on_device(array):
    return np.ascontiguousarray(array).view(OnDevice).reshape(np.shape(array))


class StandInMemory(Memory):
    """As backends/cuda/driver.py's DeviceMemory. `allocations` has the bytes of each allocation, and `order` what was
    asked of which queue; work that the library's own functions do on its arrays is not in it."""

    device, plain, checks = "cuda", None, False

    def __init__(self):
        self.capturing, self.free, self.allocations = False, 1 << 30, []
        self.stream, self.order = 0, Order()
        self.library = SimpleNamespace(
            ndarray=OnDevice, may_share_memory=np.may_share_memory, shares_memory=np.shares_memory
        )

    def view(self, name, value, dtype="float32"):
        if isinstance(value, OnDevice):
            return value
        self.check_place(name, value, dtype)
        raise AssertionError("an array that says that it is on a device")

    def settled(self, array, dtype=None):
        dtype = dtype or array.dtype
        if array.flags.c_contiguous and array.flags.aligned and array.dtype == dtype:
            return array
        return self._copied(array, dtype)

    def copied(self, array):
        return self._copied(array, array.dtype)

    def _copied(self, array, dtype):
        self.order.work("a copy", self.stream, reads=[array])
        copy = self.empty(array.shape, dtype)
        copy[...] = array
        return copy

    def empty(self, shape, dtype):
        self.check_idle("allocate")
        nbytes = prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
        self._count(nbytes)
        made = on_device(np.empty(shape, dtype))
        made[...] = 113  # whatever was there before
        return made

    def aligned(self, length, dtype):
        made = self.empty(length, dtype)
        return made if made.ctypes.data % 512 == 0 else self.moved(made)

    def moved(self, array):
        """The array at a multiple of 512 bytes, as CuPy's pool has all."""
        raw = on_device(np.empty(array.nbytes + 512, np.uint8))
        start = -raw.ctypes.data % 512
        place = raw[start : start + array.nbytes].view(array.dtype)
        place[...] = array
        return place

    def _count(self, nbytes):
        if nbytes > self.free:
            raise OutOfMemory(nbytes, self.free)
        self.allocations.append(nbytes)

    def to_device(self, array):
        if isinstance(array, OnDevice):
            return array
        self.check_idle("copy from the host")
        self._count(array.nbytes)
        return on_device(np.array(array))

    def to_host(self, array):
        if not isinstance(array, OnDevice):
            return array
        self.check_idle("wait")
        self.order.work("a copy to the host", self.stream, reads=[array])
        self.order.host_waits(self.stream)
        return np.array(array)

    def renewed(self, old, array):
        if old is None or (old.shape, old.dtype) != (array.shape, array.dtype):
            return self.to_device(array)
        self.check_idle("copy from the host")
        self.order.work("a copy from the host", self.stream, writes=[old])
        old[...] = array
        return old

    def clear(self, array):
        self.order.work("clearing", self.stream, writes=[array])
        array[...] = 0

    def address(self, array):
        self.order.uses(array)  # whose place is known from here on, for those who are given addresses in it
        return super().address(array)

    def queue(self):
        return self.stream

    def moment(self):
        return self.order.moment(self.stream)

    def wait_for(self, moment):
        self.order.wait(self.stream, moment)

    def hand_back(self, given):
        pass

    def free_bytes(self):
        return self.free

    def pinned(self, shape, dtype):
        return np.empty(shape, dtype)

    def check_idle(self, what):
        assert not self.capturing, f"while a graph is captured the host cannot {what}"


class StandInCopier:
    """Copies on a queue of their own, made when they are joined or waited for, and not before."""

    def __init__(self, memory, number):
        self._memory, self._queue = memory, f"copies {number}"
        self._pending = []

    def copy(self, target, source, after):
        assert isinstance(target, OnDevice) and not isinstance(source, OnDevice)
        self._memory.order.wait(self._queue, after)
        self._memory.order.work("a copy", self._queue, writes=[target])
        self._pending.append((target, source))

    def join(self):
        self._memory.wait_for(self._memory.order.moment(self._queue))
        self._make()

    def wait(self):
        self._memory.order.host_waits(self._queue)
        self._make()

    def _make(self):
        for target, source in self._pending:
            target[...] = source
        self._pending.clear()

    @property
    def idle(self):
        return not self._pending


@dataclass(frozen=True)
class Launch:
    """What was asked of the device: an entry with its kind and blocks, or a product, whose last argument is the
    algorithm given."""

    entry: str
    kind: Any
    blocks: int
    arguments: tuple

    @property
    def what(self):
        """That must have run before it is captured."""
        return self.entry, self.kind, self.arguments[-1] if self.entry == "product" else None


class StandIn:
    """As backends/cuda/driver.py's Driver. `launches` records what was run, and `replays` how many graphs."""

    name, multiprocessors = "the simulator", 2
    shared_of_a_block = 16 << 10
    HOME = 400  # bytes, so that not all of a network's weights find room

    def __init__(self, library=None):
        assert config.ENABLE_CUDASIM, "set NUMBA_ENABLE_CUDASIM=1 before Numba is imported"
        # The simulator watches its threads in a loop that never waits: at Python's 5 ms each of them, at each barrier,
        # got its turn so late that a kernel took ten times as long.
        sys.setswitchinterval(1e-4)
        self.memory = StandInMemory()
        self.copiers = []
        self.launches, self.replays, self._ran, self._captured = [], 0, set(), None
        self._workspace = self.memory.aligned(4096, np.dtype(np.uint8))
        self._products = Products(library or FakeCublasLt(), len(self._workspace))

    def facts(self):
        return {"architecture": "Numba's CUDA simulator", "products": "cuBLASLt on NumPy"}

    @cache  # noqa: B019  one driver a process
    def kernel(self, entry, kind):
        arrays = {}

        def shared(name, length, dtype):
            return lambda: arrays.setdefault(name, np.empty(length, dtype))  # one block runs at a time

        def dynamic(name, dtype):
            return shared(name, self.home_bytes(entry, kind) // np.dtype(dtype).itemsize, dtype)

        views = {name: PLAIN[name] for name in ALONE} | {"strided": strided}
        words = words_for(kind, Device(lambda word, thin: word, shared, dynamic, (thread_x, thread_y), views))
        folder = Path(fusedmlp.backends.cuda.__file__).parent
        binder = Binder(words, lambda function, thin: function, folder, kind.rules)
        bound = entries.bound(binder, entry)
        return words["begin"], np.errstate(all="ignore")(bound)  # in each of the simulator's threads

    def ready(self, arguments):
        return arguments

    def home_bytes(self, entry, kind):
        return self.HOME

    def most_blocks(self, entry, kind, shared=0):
        return 1  # a barrier of several would be silently wrong in the simulator

    def launch(self, entry, kind, blocks, arguments, shared=0):
        assert shared <= self.home_bytes(entry, kind)
        assert blocks >= 1 and (blocks == 1 or entry not in entries.MEETING), f"{entry} on {blocks} blocks"
        strangers = [a for a in arguments if isinstance(a, np.ndarray) and not isinstance(a, OnDevice)]
        assert not strangers, f"{entry} is given arrays of the host: {strangers}"
        self._do(Launch(entry, kind, blocks, arguments))

    def planned(self, product, algorithm=None):
        self.memory.check_idle("plan a product")
        return self._products.plan(product, algorithm).algorithm

    def product(self, product, a, b, out, bias=0, algorithm=None):
        self._do(Launch("product", product, 1, (a, b, out, bias, algorithm)))

    def _do(self, launch):
        if self._captured is not None:
            assert launch.what in self._ran, f"{launch.entry} is captured before it ran"
            self._captured.append(launch)
            return
        self._ran.add(launch.what)
        self.launches.append(launch)
        if launch.entry == "product":
            a, b, out, bias, algorithm = launch.arguments
            self.memory.order.work("a product", self.memory.stream, reads=[a, b, bias], writes=[out])
            planned = self._products.plan(launch.kind, algorithm)
            self._products(planned, a, b, out, 0, bias, self.memory.address(self._workspace))
            return
        begin, body = self.kernel(launch.entry, launch.kind)
        arrays = [argument for argument in launch.arguments if isinstance(argument, OnDevice)]
        before = [array.tobytes() for array in arrays]
        cuda.jit(KERNEL)[launch.blocks, launch.kind.shape.threads](begin, body, launch.arguments)
        # Signatures do not say what is written: what is changed.
        changed = [array for array, was in zip(arrays, before, strict=True) if array.tobytes() != was]
        self.memory.order.work(launch.entry, self.memory.stream, reads=arrays, writes=changed)

    @contextmanager
    def _capturing(self):
        assert self._captured is None, "a capture within a capture"
        self._captured, self.memory.capturing = [], True
        try:
            yield self._captured
        finally:
            self._captured, self.memory.capturing = None, False

    def capture(self, work, multiplies):
        with self._capturing() as captured:
            work()
        assert captured, "an empty graph"
        assert multiplies == any(launch.entry == "product" for launch in captured)
        return captured

    def replay(self, graph):
        self.replays += 1
        for launch in graph:
            self._do(launch)

    def copier(self):
        self.copiers.append(StandInCopier(self.memory, len(self.copiers)))
        return self.copiers[-1]


class SimulatedBackend(CudaBackend):
    shapes = SHAPES
    panel = 128  # bytes: a few rows

    def __init__(self, library=None):
        super().__init__(StandIn(library))


@cache
def get_simulator():
    return SimulatedBackend()


def stand_in_for_cuda():
    """From here on "cuda" is the stand-in, in this process."""
    driver.absence = lambda: None
    backends._made["cuda"] = get_simulator()
    return get_simulator()
