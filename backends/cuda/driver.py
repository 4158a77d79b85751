"""The one door to the device: memory, kernels and launches, by CuPy and Numba CUDA.

Everything above this file is the same on a machine without a GPU, where the tests put a stand-in behind the door
(tests/stand_in.py): NumPy's memory, and Numba's CUDA simulator to launch.
"""

import ctypes
import os
from functools import cache
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array, Memory

INSTALL = "pip install 'fusedmlp[cuda13]', or fusedmlp[cuda12] with a driver for CUDA 12"
CUDA_SUCCESS = 0


@cache
def absence() -> str | None:
    """Why no device can be used, and what would help; None where one can. Quick where there is none: nothing is
    imported before the driver has named a device."""
    for package in ("cupy", "numba_cuda"):
        if find_spec(package) is None:
            return f"{package.replace('_', '-')} is not installed; {INSTALL}"
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
    checks = False

    def __init__(self) -> None:
        import cupy

        self.library = cupy

    def view(self, name: str, value: Any, dtype: str = "float32") -> Array:
        if isinstance(value, self.library.ndarray):
            return value
        self.check_place(name, value, dtype)
        # DLPack waits for the stream that the other library works on.
        return self.library.from_dlpack(value) if hasattr(value, "__dlpack__") else self.library.asarray(value)

    def settled(self, array: Array) -> Array:
        if not array.flags.c_contiguous:
            return self.library.ascontiguousarray(array)
        return array.copy() if array.data.ptr % array.itemsize else array

    def aligned(self, length: int, dtype: np.dtype) -> Array:
        return self.library.empty(length, dtype)  # CuPy's pool hands out multiples of 512 bytes

    def to_device(self, array: np.ndarray) -> Array:
        return self.library.asarray(array)

    def to_host(self, array: Array) -> np.ndarray:
        return self.library.asnumpy(array)


class Driver:
    """What a backend asks of a device."""

    def __init__(self) -> None:
        # CuPy's arrays would make each launch wait for their stream; all work here is on one, the current.
        os.environ.setdefault("NUMBA_CUDA_ARRAY_INTERFACE_SYNC", "0")
        from numba import cuda

        self._cuda = cuda
        self.memory: Memory = DeviceMemory()
        properties = self.memory.library.cuda.runtime.getDeviceProperties(self.memory.library.cuda.Device().id)
        self.name = properties["name"].decode()
        self.multiprocessors = int(properties["multiProcessorCount"])

    @cache  # noqa: B019  one driver a process
    def kernel(self, body: str, dtype: np.dtype) -> Any:
        """The compiled kernel of an entry (backends/entries.py): seconds at first, then from disk."""
        from fusedmlp.backends.cuda.compile import kernel

        return kernel(body, dtype)

    def most_blocks(self, body: str, dtype: np.dtype, threads: tuple[int, int]) -> int:
        """How many blocks of so many threads may meet at a barrier."""
        (overload,) = self.kernel(body, dtype).overloads.values()
        return int(overload.max_cooperative_grid_blocks(prod(threads)))

    def launch(self, body: str, dtype: np.dtype, blocks: int, threads: tuple[int, int], arguments: tuple) -> None:
        """Runs the kernel of a body on the current stream; the caller does not wait."""
        stream = self._cuda.external_stream(self.memory.library.cuda.get_current_stream().ptr)
        self.kernel(body, dtype)[blocks, threads, stream](*arguments)
