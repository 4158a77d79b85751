"""Memory for a library's products, by stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from fusedmlp.backends.arrays import Array


class Workspaces:
    """A workspace for each stream, since products that run at the same time must not share one.

    make  gives memory of the stream that is current; it may be dropped while work on that stream still writes there,
          as CuPy's pool gives it out again in the order of the stream
    most  are kept, those of the streams that were used last; a graph keeps its own alive besides

    One thread at a time.
    """

    def __init__(self, make: Callable[[], Array], most: int) -> None:
        self._of = lru_cache(maxsize=most)(lambda stream: make())
        self._lent: Array | None = None

    def __call__(self, stream: int) -> Array:
        """The workspace of a stream, which is current; within `lent` the one that is lent."""
        return self._of(stream) if self._lent is None else self._lent

    @contextmanager
    def lent(self, stream: int) -> Iterator[Array]:
        """Within, any stream has the workspace of this one, which is current: a graph is captured on another stream
        than the one on which it will run, and nothing can be allocated meanwhile."""
        self._lent = self._of(stream)
        try:
            yield self._lent
        finally:
            self._lent = None
