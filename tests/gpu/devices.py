"""The device of these tests: a GPU, or in the rehearsal (NUMBA_ENABLE_CUDASIM=1) what stands in for one."""

import os
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
import pytest

import fusedmlp as fm

REHEARSED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


@cache
def get_device():
    """The backend; skips the test where there is none, or fails it where FUSEDMLP_REQUIRE_BACKENDS names cuda."""
    if REHEARSED:
        from stand_in import stand_in_for_cuda

        return stand_in_for_cuda()
    if reason := fm.backends.unavailable("cuda"):
        required = "cuda" in os.environ.get("FUSEDMLP_REQUIRE_BACKENDS", "")
        (pytest.fail if required else pytest.skip)(reason)
    return fm.get_backend("cuda")


@cache
def torch_device():
    """Where PyTorch is to compute. In the rehearsal that is the processor."""
    import torch

    if REHEARSED:
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA device")
    torch.set_float32_matmul_precision("highest")  # no TF32
    return "cuda"


class Library:
    """Arrays on the device as one library has them, and a stream of its own."""

    def array(self, value):
        """A copy of a NumPy array on the device, there when this returns."""
        raise NotImplementedError

    def host(self, array):
        """As NumPy's array, when the library's current stream has done its work."""
        raise NotImplementedError

    def address(self, array):
        raise NotImplementedError

    def overwrite(self, target, source):
        """Queues target[...] = source on the library's current stream."""
        raise NotImplementedError

    def side_stream(self):
        """A context in which a new stream is the library's current one."""
        return nullcontext()

    def queued(self):
        """The handle of the library's current stream."""
        return 0

    def owns(self, result):
        """Whether a result is an array as this library's callers expect it."""
        raise NotImplementedError

    def delay(self):
        """Keeps the library's current stream busy for some 50 ms; the caller does not wait."""
        import cupy

        with cupy.cuda.ExternalStream(self.queued()):
            _spinning()((1,), (1,), (SPIN_CYCLES,))


SPIN_CYCLES = 100_000_000  # 50 ms at 2 GHz
SPIN = """
extern "C" __global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}
"""


@cache
def _spinning():
    import cupy

    kernel = cupy.RawKernel(SPIN, "spin")
    kernel((1,), (1,), (1,))  # compiled and loaded
    cupy.cuda.Device().synchronize()
    return kernel


class CuPy(Library):
    def array(self, value):
        import cupy

        made = cupy.asarray(value)
        cupy.cuda.Device().synchronize()
        return made

    def host(self, array):
        import cupy

        return cupy.asnumpy(array)

    def address(self, array):
        return array.data.ptr

    def overwrite(self, target, source):
        target[...] = source

    def side_stream(self):
        import cupy

        return cupy.cuda.Stream(non_blocking=True)

    def queued(self):
        import cupy

        return cupy.cuda.get_current_stream().ptr

    def owns(self, result):
        import cupy

        return isinstance(result, cupy.ndarray)


class PyTorch(Library):
    def array(self, value):
        import torch

        made = torch.as_tensor(value, device="cuda")
        torch.cuda.synchronize()
        return made

    def host(self, array):
        return array.cpu().numpy()

    def address(self, array):
        return array.data_ptr()

    def overwrite(self, target, source):
        target.copy_(source)

    def side_stream(self):
        import torch

        return torch.cuda.stream(torch.cuda.Stream())

    def queued(self):
        import torch

        return torch.cuda.current_stream().cuda_stream

    def owns(self, result):
        import torch

        return isinstance(result, torch.Tensor) and result.device == torch.device("cuda", torch.cuda.current_device())


class Numba(Library):
    """Its arrays say which stream they are used on; results are CuPy's, for it has no function that takes them."""

    def __init__(self):
        self.stream = None

    def array(self, value):
        from numba import cuda

        made = cuda.to_device(np.ascontiguousarray(value), stream=self.stream or 0)
        cuda.synchronize()
        return made

    def host(self, array):
        return array.get() if hasattr(array, "get") else array.copy_to_host(stream=self.stream or 0)

    def address(self, array):
        return array.__cuda_array_interface__["data"][0]

    def overwrite(self, target, source):
        target.copy_to_device(source, stream=self.stream or 0)

    @contextmanager
    def side_stream(self):
        from numba import cuda

        self.stream = cuda.stream()
        try:
            yield
        finally:
            self.stream = None

    def queued(self):
        return int(self.stream.handle) if self.stream else 0

    def owns(self, result):
        return CuPy().owns(result)


class StandIns(Library):
    """The stand-in's arrays, which are there at once."""

    def array(self, value):
        return get_device().memory.to_device(np.asarray(value))

    def host(self, array):
        return get_device().memory.to_host(array)

    def address(self, array):
        return array.ctypes.data

    def overwrite(self, target, source):
        target[...] = source

    def delay(self):
        pass

    def owns(self, result):
        return get_device().memory.holds(result)


LIBRARIES = {"stand-in": StandIns} if REHEARSED else {"cupy": CuPy, "torch": PyTorch, "numba": Numba}
