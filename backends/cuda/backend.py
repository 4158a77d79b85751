"""The bodies on a GPU: each launch is one kernel, whose blocks are the workers.

A training is one launch that interprets the program, for as many steps as fit about 50 ms; its blocks meet at the
barriers of the grid, so there are no more of them than the device holds at once.
"""

from typing import Any

import numpy as np

from fusedmlp.backends.backend import Backend
from fusedmlp.backends.cuda.driver import Driver
from fusedmlp.backends.cuda.words import DONE, SYNC_LENGTH, THREADS, TILE
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels.program import Network

_INT64 = np.dtype(np.int64)


class CudaBackend(Backend):
    name = "cuda"
    call_seconds = 0.05  # a device that also draws a screen stops kernels that run for long
    panel = 8 << 20
    threads_of_a_block = THREADS
    tile = TILE

    def __init__(self, driver: Driver | None = None) -> None:
        self._driver = driver or Driver()
        super().__init__(self._driver.memory)

    def describe(self) -> str:
        return f"cuda: compiled by Numba CUDA for {self._driver.name}, {self._driver.multiprocessors} multiprocessors"

    def workers_for(self, flops: float) -> int:
        """A block for each tile's worth of work, up to what the device runs at once."""
        tiles = flops / (2.0 * self.tile**3)
        return max(1, min(self._driver.multiprocessors, int(tiles)))

    def plan(self, network: Network, batch: int) -> Plan:
        """Layers by rows: with as many workers as a GPU has, partial sums of all of them would be most of the work."""
        most = self._driver.most_blocks("run", np.dtype(np.float32), self.threads_of_a_block)
        return Plan(max(1, min(most, -(-batch // 2))), ("rows",) * network.layers)

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> int:
        self._launch(body, dtype, workers, arguments)
        return 0

    def launch_interruptible(
        self, body: str, dtype: np.dtype, workers: int, *arguments: Any
    ) -> tuple[int, BaseException | None]:
        """The host waits for the device, and hears of Ctrl-C when the call ends."""
        sync, reached = self._launch(body, dtype, workers, arguments), None
        while True:
            try:
                return int(self.memory.to_host(sync)[DONE]), reached
            except KeyboardInterrupt as error:
                reached = error

    def _launch(self, body: str, dtype: np.dtype, workers: int, arguments: tuple[Any, ...]) -> Any:
        sync = self._scratch("sync", _INT64, SYNC_LENGTH)
        sync[...] = 0
        self._driver.launch(body, dtype, workers, self.threads_of_a_block, (sync, *arguments))
        return sync
