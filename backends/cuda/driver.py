"""The one door to the device: memory, kernels and launches, by CuPy and Numba CUDA.

Everything above this file is the same on a machine without a GPU, where the tests put a stand-in behind the door
(tests/stand_in.py): NumPy's memory, and Numba's CUDA simulator to launch.
"""

import ctypes
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property, lru_cache
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array, Memory, device_of, giver, is_array
from fusedmlp.backends.cuda.cublaslt import library
from fusedmlp.backends.cuda.kinds import Kind
from fusedmlp.backends.cuda.products import Product, Products
from fusedmlp.backends.cuda.workspaces import Workspaces
from fusedmlp.backends.errors import OutOfMemory
from fusedmlp.backends.install import for_cuda


@cache
def absence() -> str | None:
    """Why no device can be used, and what would help; None where one can. Quick where there is none: nothing is
    imported before the driver has named a device."""
    for package in ("cupy", "numba_cuda"):
        if find_spec(package) is None:
            return f"{package.replace('_', '-')} is not installed; {for_cuda()}"
    try:
        libcuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda was not found)"
    count = ctypes.c_int()
    if (status := libcuda.cuInit(0)) or (status := libcuda.cuDeviceGetCount(ctypes.byref(count))):
        return f"the NVIDIA driver cannot start (CUDA error {status}); see what nvidia-smi says"
    if not count.value:
        return "the NVIDIA driver shows no device; CUDA_VISIBLE_DEVICES may hide it"
    import cupy

    try:
        cupy.zeros(1)
    except Exception as error:  # whatever stands between CuPy and the device
        return f"CuPy cannot use the device: {error}"
    return None


class DeviceMemory(Memory):
    """A device's memory, whose arrays are CuPy's, on the stream that is current."""

    device = "cuda"
    plain = None
    checks = False

    def __init__(self) -> None:
        import cupy

        self.library = cupy
        self._number = cupy.cuda.Device().id

    def view(self, name: str, value: Any, dtype: str = "float32") -> Array:
        if not isinstance(value, self.library.ndarray):
            self.check_place(name, value, dtype)
            # DLPack waits for the stream that the other library works on.
            value = self.library.from_dlpack(value) if hasattr(value, "__dlpack__") else self.library.asarray(value)
        if value.device.id != self._number:
            raise TypeError(f"{name}: expected an array on CUDA device {self._number}, got one on {value.device.id}")
        return value

    def settled(self, array: Array, dtype: np.dtype | None = None) -> Array:
        dtype = dtype or array.dtype
        with self._room_for(array.size * dtype.itemsize):
            if array.data.ptr % array.itemsize:
                # No kernel can read such numbers, CuPy's copies neither: the attempt ends all work on the device.
                shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
                single = self.library.ndarray(shape, np.uint8, array.data, strides)
                array = single.copy().view(array.dtype).reshape(array.shape)
            alike = array.flags.c_contiguous and array.dtype == dtype
            return array if alike else self.library.ascontiguousarray(array, dtype)

    def empty(self, shape: Any, dtype: np.dtype) -> Array:
        with self._room_for(prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize):
            return self.library.empty(shape, dtype)

    def aligned(self, length: int, dtype: np.dtype) -> Array:
        return self.empty(length, dtype)  # CuPy's pool hands out multiples of 512 bytes

    def to_device(self, array: np.ndarray) -> Array:
        with self._room_for(array.nbytes):
            return self.library.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.library.asnumpy(array)

    def renewed(self, old: Array | None, array: np.ndarray) -> Array:
        if old is None or (old.shape, old.dtype) != (array.shape, array.dtype):
            return self.to_device(array)
        old.set(array)
        return old

    def copied(self, array: Array) -> Array:
        with self._room_for(array.nbytes):
            return array.copy()

    def clear(self, array: Array) -> None:
        array.data.memset_async(0, array.nbytes)

    def address(self, array: Array) -> int:
        return array.data.ptr

    def queue(self) -> int:
        return self.library.cuda.get_current_stream().ptr

    def moment(self) -> Any:
        return self.library.cuda.get_current_stream().record()

    def wait_for(self, moment: Any) -> None:
        self.library.cuda.get_current_stream().wait_event(moment)

    def hand_back(self, given: Any) -> None:
        if not is_array(given) or device_of(given) != self.device or isinstance(given, self.library.ndarray):
            return
        stream = getattr(given, "__cuda_array_interface__", {}).get("stream")
        if stream:
            self.library.cuda.ExternalStream(stream).wait_event(self.moment())
        else:
            giver(given)(self.view("given", given))  # who takes an array by DLPack has its own stream wait for ours

    def free_bytes(self) -> int:
        pool = self.library.get_default_memory_pool()
        free, _ = self.library.cuda.runtime.memGetInfo()
        return free + pool.free_bytes()

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array in the processor's memory from which copies to the device need no help of the processor."""
        memory = self.library.cuda.alloc_pinned_memory(max(1, prod(shape) * dtype.itemsize))
        return np.frombuffer(memory, dtype, prod(shape)).reshape(shape)

    @contextmanager
    def _room_for(self, nbytes: int) -> Iterator[None]:
        try:
            yield
        except self.library.cuda.memory.OutOfMemoryError:
            raise OutOfMemory(nbytes, self.free_bytes()) from None


class Copier:
    """Copies to the device beside what the current stream does."""

    def __init__(self, library: Any) -> None:
        self._cuda = library.cuda
        self._stream = library.cuda.Stream(non_blocking=True)

    def copy(self, target: Array, source: np.ndarray, after: Any) -> None:
        """Copies a pinned array, not before a moment of the memory's; the caller does not wait."""
        self._stream.wait_event(after)
        target.set(source, stream=self._stream)

    def join(self) -> None:
        """What the current stream is given from here on waits for the copies."""
        self._cuda.get_current_stream().wait_event(self._stream.record())

    def wait(self) -> None:
        """The caller waits for the copies: their sources may be written again."""
        self._stream.synchronize()


class Graph:
    """What was captured, and the workspace of its products, which must live as long."""

    def __init__(self, captured: Any, workspace: Array | None) -> None:
        self.captured, self.workspace = captured, workspace


class Driver:
    """What a backend asks of a device."""

    WORKSPACE = 32 << 20  # bytes for cuBLASLt's products, as NVIDIA advises for Hopper
    STREAMS = 8  # that have a workspace at the same time

    def __init__(self) -> None:
        from numba import cuda

        self._cuda = cuda
        self.memory: Memory = DeviceMemory()
        self._cupy = self.memory.library.cuda
        properties = self._cupy.runtime.getDeviceProperties(self._cupy.Device().id)
        self._lock = threading.RLock()
        self._workspaces = Workspaces(lambda: self.memory.aligned(self.WORKSPACE, np.dtype(np.uint8)), self.STREAMS)
        self.name = properties["name"].decode()
        self.capability = int(properties["major"]), int(properties["minor"])
        self.multiprocessors = int(properties["multiProcessorCount"])
        self.shared_of_a_block = int(properties["sharedMemPerBlockOptin"])

    def facts(self) -> dict[str, str]:
        """What a report of this machine should say of the device, by name."""
        free, total = self._cupy.runtime.memGetInfo()
        runtime = self._cupy.runtime
        return {
            "architecture": "sm_{}{}".format(*self.capability),
            "memory": f"{free >> 20} of {total >> 20} MiB free, {self.shared_of_a_block >> 10} KiB shared by a block",
            "CUDA": f"driver for {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}",
            "products": self._products_by(),
        }

    def _products_by(self) -> str:
        try:
            return f"cuBLASLt, through {getattr(library(), '__name__', 'ctypes')}"
        except OSError as error:
            return f"none: {error}"

    @cache  # noqa: B019  one driver a process
    def kernel(self, entry: str, kind: Kind) -> Any:
        """The compiled kernel of an entry (backends/entries.py): seconds at first, then from disk."""
        from fusedmlp.backends.cuda.compile import kernel

        return kernel(entry, kind)

    @cache  # noqa: B019
    def home_bytes(self, entry: str, kind: Kind) -> int:
        """How much shared memory a launch may ask for, for weights at home."""
        from fusedmlp.backends.cuda.compile import allow_shared

        return allow_shared(self.kernel(entry, kind), self.shared_of_a_block)

    @cache  # noqa: B019
    def most_blocks(self, entry: str, kind: Kind, shared: int = 0) -> int:
        """How many blocks, each with so many more bytes of shared memory, may meet at a barrier."""
        (overload,) = self.kernel(entry, kind).overloads.values()
        return int(overload.max_cooperative_grid_blocks(prod(kind.shape.threads), shared))

    def launch(self, entry: str, kind: Kind, blocks: int, arguments: tuple, shared: int = 0) -> None:
        """Runs the kernel of an entry on the current stream, with so many more bytes of shared memory; the caller does
        not wait."""
        configured = self._configured(entry, kind, blocks, self._cupy.get_current_stream().ptr, shared)
        configured(*self.ready(arguments))

    def ready(self, arguments: tuple) -> tuple:
        """The arguments of a launch, as several launches take them; each would do it again."""
        return tuple(map(self._for_numba, arguments))

    @lru_cache(maxsize=4096)  # noqa: B019
    def _configured(self, entry: str, kind: Kind, blocks: int, stream: int, shared: int) -> Any:
        with warnings.catch_warnings():  # that so few blocks leave some of the device idle
            warnings.simplefilter("ignore")
            configuration = blocks, kind.shape.threads, self._cuda.external_stream(stream), shared
            return self.kernel(entry, kind)[configuration]

    def _for_numba(self, argument: Any) -> Any:
        """An array as Numba's own. Of CuPy's it would wait for their stream, at each launch and in a capture; all work
        here is on one stream, the current."""
        if isinstance(argument, self.memory.library.ndarray):
            return self._cuda.as_cuda_array(argument, sync=False)
        return argument

    def planned(self, product: Product, algorithm: bytes | None = None) -> bytes:
        """The algorithm of a product of cuBLASLt, which is now ready to run: the one given, else the first that
        cuBLASLt names."""
        with self._lock:
            return self._products.plan(product, algorithm).algorithm

    def product(
        self, product: Product, a: int, b: int, out: int, bias: int = 0, algorithm: bytes | None = None
    ) -> None:
        """Runs a product of cuBLASLt on the current stream, from and to these addresses; the caller does not wait."""
        with self._lock:
            stream = self._cupy.get_current_stream().ptr
            workspace = self.memory.address(self._workspaces(stream))
            self._products(self._products.plan(product, algorithm), a, b, out, stream, bias, workspace)

    @cached_property
    def _products(self) -> Products:
        """One for all streams: to end one would make the host wait for the device, also within another's capture."""
        return Products(library(), self.WORKSPACE)

    def capture(self, work: Callable[[], None], multiplies: bool) -> Graph:
        """A graph of what `work` launches, to be run on the stream that is current now; `multiplies` says whether there
        are products among it. Each kernel and product of it must have run before."""
        with self._lock, ExitStack() as within:
            lent = self._workspaces.lent(self._cupy.get_current_stream().ptr)
            workspace = within.enter_context(lent) if multiplies else None
            stream = within.enter_context(self._cupy.Stream(non_blocking=True))
            stream.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(Exception):  # the stream must leave the capture, whose end may be an error now
                    stream.end_capture()
                raise
            captured = stream.end_capture()
        return Graph(captured, workspace)

    def replay(self, graph: Graph) -> None:
        """Runs a graph on the current stream; the caller does not wait."""
        graph.captured.launch(self._cupy.get_current_stream())

    def copier(self) -> Copier:
        return Copier(self.memory.library)
