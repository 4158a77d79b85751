"""How Numba compiles what runs on the processor."""

import gc
import os
import threading

from fusedmlp.backends.cpu.pipelines import Called, Entry

# Of every compiled function. error_model: with Python's, an x / 0.0 in one worker would leave the others waiting for
# ever, and an Adam loop of a sketch ran six times slower. No fastmath: it drops the checks for NaN.
_OPTIONS = {"nogil": True, "_nrt": False, "error_model": "numpy"}

# Of an entry, which Python calls and no compiled function.
ENTRY = _OPTIONS | {"pipeline_class": Entry}

# Of functions that only other compiled functions call: called from Python they end the process.
CALLED = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": Called}
INLINED = CALLED | {"inline": "always"}
INNER_LOOP = CALLED | {"forceinline": True}


class _Uncollected:
    """Around compilations, of any threads: Python looks for no garbage in cycles meanwhile. Among the compiler's
    millions of objects that takes it a tenth of its time, and finds 0.2 GB, which can wait for a moment."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._leave_all)

    def _forget(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._before:
                gc.enable()

    def _leave_all(self) -> None:
        """In a forked child, which has none of the threads that compile."""
        if self._inside and self._before:
            gc.enable()
        self._forget()


UNCOLLECTED = _Uncollected()
