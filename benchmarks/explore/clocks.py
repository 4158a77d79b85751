"""Clocks for the peers, which bring streams of their own."""

import time
from collections.abc import Callable

WARM_SECONDS = 0.1


class HostClock:
    """The host's clock, for work that waits for its own end."""

    def synchronize(self) -> None:
        """Wait for all work begun."""

    def elapsed(self, work: Callable[[], object]) -> float:
        """Seconds."""
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def times(self, work: Callable[[], object], repetitions: int) -> list[float]:
        """Seconds of each repetition, after WARM_SECONDS of warm-up."""
        began = time.monotonic()
        while time.monotonic() - began < WARM_SECONDS:
            work()
            self.synchronize()
        return [self.elapsed(work) for _ in range(repetitions)]


class TorchClock(HostClock):
    """Two events on PyTorch's current stream."""

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3


class CuPyClock(HostClock):
    """Two events on a stream of its own, which is CuPy's current one from here on."""

    def __init__(self) -> None:
        import cupy

        self._cuda = cupy.cuda
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._stream.use()

    def synchronize(self) -> None:
        self._stream.synchronize()

    def elapsed(self, work: Callable[[], object]) -> float:
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return self._cuda.get_elapsed_time(start, end) * 1e-3


CLOCKS: dict[str, Callable[[], HostClock]] = {"cuda": TorchClock, "cupy": CuPyClock}


def clock_for(device: str) -> HostClock:
    """PyTorch's clock for "cuda", CuPy's for "cupy"; on a processor, where a section is rehearsed, the host's."""
    return CLOCKS.get(device, HostClock)()
