"""The device as a section sees it: one stream for CuPy, Numba and cuda.core, and times between two events on it."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from fusedmlp.benchmarks.explore import kernels

REPETITIONS = 25
WARM_SECONDS = 0.1  # of the work itself, before it is timed: the clocks rise from a third within that
HOST_CALLS = 100  # in a row, fewer than the driver lets wait
Work = Callable[[], object]


class Gpu:
    """The current device, with its primary context. Needs NUMBA_CUDA_ARRAY_INTERFACE_SYNC=0 before Numba's import."""

    def __init__(self) -> None:
        import cupy
        from cuda.core import Device, LaunchConfig, Stream, launch
        from numba import cuda

        if os.environ.get("NUMBA_CUDA_ARRAY_INTERFACE_SYNC") != "0":
            raise RuntimeError("NUMBA_CUDA_ARRAY_INTERFACE_SYNC=0 must be set, or each launch waits for its arrays")
        cupy.zeros(1)
        Device().set_current()
        self._cupy, self._config, self._launch = cupy, LaunchConfig, launch
        self._as_numba = cuda.as_cuda_array
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        self.pointer: int = self.stream.ptr
        self.numba_stream = cuda.external_stream(self.pointer)
        self.core_stream = Stream.from_handle(self.pointer)
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.multiprocessors = int(properties["multiProcessorCount"])

    # memory

    def array(self, value: np.ndarray) -> Any:
        return self._cupy.asarray(value)

    def empty(self, length: int, dtype: Any = np.float32) -> Any:
        return self._cupy.empty(length, dtype)

    def fill(self, array: Any, byte: int = 0) -> None:
        """Set every byte; can be captured."""
        array.data.memset_async(byte, array.nbytes, self.stream)

    def copy(self, target: Any, source: Any) -> None:
        target.data.copy_from_device_async(source.data, source.nbytes, self.stream)

    def host(self, array: Any) -> np.ndarray:
        return self._cupy.asnumpy(array)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    # kernels

    def kernel(self, name: str) -> Any:
        """A kernel of kernels.py, compiled."""
        return kernels.compiled(name)

    def numba_array(self, array: Any) -> Any:
        """The same memory as Numba's own kind of array, which launches convert faster."""
        return self._as_numba(array)

    def configured(self, name: str, blocks: int, threads: int) -> Callable[..., None]:
        """A kernel with its launch configuration, to be called with arguments."""
        return self.kernel(name)[blocks, threads, self.numba_stream]

    def core(self, name: str, blocks: int, threads: int, **options: Any) -> Callable[..., None]:
        """A kernel to be called through cuda.core, with each argument as the compiled kernel takes it: `flat`.

        With `cluster=n`, `blocks` counts clusters.
        """
        (overload,) = self.kernel(name).overloads.values()
        compiled = overload._codelibrary.get_cufunc().kernel
        if options.get("cluster", 0) > 8:
            allow_large_clusters(compiled)
        config = self._config(grid=blocks, block=threads, **options)
        return partial(self._launch, self.core_stream, config, compiled)

    def flat(self, *arguments: Any) -> list[Any]:
        """Arguments of a Numba kernel as it takes them compiled. A one-dimensional array comes in parts: no owner, no
        parent, size, bytes an element, address, shape and stride."""
        taken: list[Any] = []
        for argument in arguments:
            if getattr(argument, "ndim", 0):
                size, itemsize = argument.size, argument.itemsize
                taken += [0, 0, size, itemsize, self.address(argument), size, itemsize]
            else:
                taken.append(argument)
        return taken

    # time

    def synchronize(self) -> None:
        self.stream.synchronize()

    def capture(self, work: Work) -> Work:
        """What replays `work`. All its kernels must have been launched once."""
        self.stream.begin_capture()
        try:
            work()
        except BaseException:
            with suppress(Exception):  # it says again that the capture failed
                self.stream.end_capture()
            raise
        graph = self.stream.end_capture()
        return partial(graph.launch, self.stream)

    def elapsed(self, work: Work) -> float:
        """Seconds between two events around `work`, which follows another turn of it: while the device is at that one,
        the host has queued the next, and its own time does not count."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        work()
        start.record(self.stream)
        work()
        end.record(self.stream)
        end.synchronize()
        return self._cupy.cuda.get_elapsed_time(start, end) * 1e-3

    def warm(self, *works: Work, seconds: float = WARM_SECONDS) -> None:
        """Each piece of work once, and then all of them in turns for so long."""
        began = time.monotonic()
        while True:
            for work in works:
                work()
            self.synchronize()
            if time.monotonic() - began > seconds:
                return

    def times(
        self, work: Work, parts: int = 1, repetitions: int = REPETITIONS, warm: float = WARM_SECONDS
    ) -> list[float]:
        """Seconds for each of the `parts` that `work` consists of, once for each repetition."""
        self.warm(work, seconds=warm)
        return [self.elapsed(work) / parts for _ in range(repetitions)]

    def slopes(self, short: Work, long: Work, more: int, repetitions: int = REPETITIONS) -> list[float]:
        """Seconds for each of the `more` parts that `long` has beyond `short`, measured in turns."""
        self.warm(short, long)
        pairs = [(self.elapsed(short), self.elapsed(long)) for _ in range(repetitions)]
        return [(after - before) / more for before, after in pairs]

    def host_times(self, work: Work, repetitions: int = REPETITIONS) -> list[float]:
        """Seconds that a call keeps the host, when the device is not waited for."""
        self.warm(work)
        taken = []
        for _ in range(repetitions):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(HOST_CALLS):
                work()
            taken.append((time.perf_counter() - began) / HOST_CALLS)
        self.synchronize()
        return taken


def allow_large_clusters(kernel: Any) -> None:
    """More than 8 blocks a cluster are not portable, and must be allowed for each kernel."""
    from cuda.bindings import driver
    from cuda.core import Device

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
    handle = driver.CUkernel(int(kernel.handle))
    (error,) = driver.cuKernelSetAttribute(attribute, 1, handle, driver.CUdevice(Device().device_id))
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"clusters of more than 8 blocks are not allowed: {error.name}")
