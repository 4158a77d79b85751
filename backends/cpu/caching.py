"""Numba's cache on disk, where there is a folder for it."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any


def cached(compiled: Callable[..., Any]) -> Any:
    """What `compiled(cache=...)` makes: kept on disk, or where no folder can be written in memory, with one warning."""
    try:
        return compiled(cache=True)
    except RuntimeError:  # no folder can be written
        _warn_once()
        return compiled(cache=False)


@cache
def _warn_once() -> None:
    warnings.warn(
        "fusedmlp: no folder can be written for compiled kernels, so they stay in memory and every process compiles "
        "them again; set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )
