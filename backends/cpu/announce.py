"""A word on the screen while kernels are compiled for the first time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def announced(text: str, dispatcher: Any) -> Iterator[None]:
    """Says on the error stream what is compiled and how long it took, unless the kernel lies on disk already."""
    if _on_disk(dispatcher):
        yield
        return
    print(f"{text} ...", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    ended = " interrupted after"
    try:
        yield
        ended = ""
    finally:
        print(f"{ended} {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def _on_disk(dispatcher: Any) -> bool:
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    return index is not None and bool(index._load_index())
