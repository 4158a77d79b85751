"""SciPy's BLAS held to one thread while our own threads call it, and given back afterwards."""

import threading
from types import TracebackType
from typing import Any


class Hold:
    """A context manager, entered by any number of threads at once: the first one in sets BLAS to one thread, the last
    one out restores what it had."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._libraries is None:
                self._libraries = _scipy_blas()
            try:
                self._inside += 1
                if self._inside == 1:
                    self._before = [library.get_num_threads() for library in self._libraries]
                    self._set([1] * len(self._before))
            except BaseException:  # Ctrl-C: nobody will call __exit__
                self._leave()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._set(self._before)

    def _set(self, threads: list[int]) -> None:
        for library, number, before in zip(self._libraries or [], threads, self._before, strict=False):
            if before != 1:
                library.set_num_threads(number)


def _scipy_blas() -> list[Any]:
    """The BLAS that comes with SciPy, which is what scipy.linalg.cython_blas calls; every BLAS of the process where
    SciPy was built on one of the system's."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in found if "scipy.libs" in library.filepath] or found
