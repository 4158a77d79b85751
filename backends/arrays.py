"""The door for arrays: what a caller hands over becomes a view that a backend can address, and results become what the
caller has.

Inputs are never written and never converted: a wrong dtype, shape or device is an error that says how to mend it.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # of NumPy, of CuPy, or of a library that speaks DLPack

FLOATS = {np.dtype(name): name for name in ("float32", "float64")}  # NumPy makes a name anew when asked, in 2 us
_DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cuda", 13: "cuda"}  # kDLCPU, kDLCUDA, kDLCUDAHost, kDLCUDAManaged
_FROM_DLPACK = {"jaxlib": "jax.dlpack"}  # where `from_dlpack` is not beside the array's class


class Elsewhere(TypeError):
    """An array lies on a device that a memory is not."""


def float_dtype(dtype: Any) -> np.dtype:
    """float32 or float64, by any name that NumPy has for it. ValueError for anything else."""
    try:
        chosen = np.dtype(dtype)
    except TypeError:
        chosen = None
    if dtype is None or chosen is None or chosen not in FLOATS:  # to NumPy None is float64
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return chosen


def is_array(value: Any) -> bool:
    """Whether `value` is an array of some library: NumPy's, or one that speaks DLPack or CUDA's array interface."""
    return (
        isinstance(value, np.ndarray)
        or hasattr(value, "__dlpack_device__")
        or hasattr(value, "__cuda_array_interface__")
    )


def device_of(value: Any) -> str:
    """ "cpu" or "cuda", or the number that DLPack has for another device."""
    if type(value) is np.ndarray:
        return "cpu"
    if hasattr(value, "__dlpack_device__"):
        kind, _ = value.__dlpack_device__()
        return _DLPACK_DEVICES.get(int(kind), f"DLPack device {int(kind)}")
    return "cuda"


def common_device(arrays: dict[str, Any]) -> str:
    """The device of all arrays. TypeError naming each argument's where they differ."""
    devices = {name: device_of(value) for name, value in arrays.items() if is_array(value)}
    if len(set(devices.values())) > 1:
        listed = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise TypeError(f"expected all arrays on one device, got {listed}")
    return next(iter(devices.values()), "cpu")


def unmasked(name: str, array: np.ndarray) -> np.ndarray:
    """The array as a plain one, whichever subclass of NumPy's it is. TypeError for a masked array: its mask would be
    lost."""
    if type(array) is np.ndarray:
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked one; pass {name}.filled(value)")
    return np.asarray(array)


def giver(value: Any) -> Callable[[Array], Any]:
    """How a result becomes an array of the library of `value`."""
    if isinstance(value, np.ndarray):
        return _as_it_is
    for kind in type(value).__mro__:  # a subclass may stand in a module of the caller's
        home = kind.__module__.partition(".")[0]
        library = sys.modules.get(_FROM_DLPACK.get(home, home))
        if library is not None and hasattr(library, "from_dlpack"):
            return library.from_dlpack
    return _as_it_is


def _as_it_is(array: Array) -> Array:
    return array


def misshapen(name: str, array: Array, shape: tuple[int, ...], meaning: str) -> ValueError:
    """The error of an array whose shape is not `shape`; `meaning` says whose that is."""
    return ValueError(f"{name}: expected shape {shape}, {meaning}, got {array.shape}")


def rows(name: str, array: Array, letters: str) -> Array:
    """A one-dimensional array as one row, a two-dimensional one as it is."""
    if array.ndim == 2:
        return array
    if array.ndim == 1:
        return array[None]
    raise ValueError(f"{name}: expected shape {letters} or one row of it, got {array.shape}")


class Memory:
    """The processor's memory, whose arrays are NumPy's. A subclass is another device's, with a library of the same
    functions.

    device   "cpu", as `device_of` names it
    library  the module whose arrays live there
    empty    empty(shape, dtype): a new contiguous array, not cleared
    plain    the class whose arrays are seen to lie there without a further look, if there is one
    checks   whether reading a number back is cheap enough to tell from a loss whether class indices are to be checked
    """

    device = "cpu"
    plain: Any = np.ndarray
    library: Any = np
    empty: Callable[..., Array] = staticmethod(np.empty)
    checks = True

    # What a subclass says.

    def view(self, name: str, value: Any, dtype: str = "float32") -> Array:
        """The library's view of an array in this memory. TypeError for what is no array, for lists with the advice to
        make one of `dtype`, and for an array elsewhere."""
        if type(value) is np.ndarray:
            return value
        self.check_place(name, value, dtype)
        return unmasked(name, value) if isinstance(value, np.ndarray) else np.from_dlpack(value)

    def settled(self, array: Array, dtype: np.dtype | None = None) -> Array:
        """The array itself where it is contiguous, aligned and of the dtype, if one is given; else a copy that is."""
        flags = array.flags
        if flags.c_contiguous and flags.aligned and (dtype is None or array.dtype == dtype):
            return array
        return np.require(array, dtype, ["C", "A"])

    def aligned(self, length: int, dtype: np.dtype) -> Array:
        """A one-dimensional array whose first element lies on a multiple of 64 bytes; not cleared."""
        raw = np.empty(length * dtype.itemsize + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + length * dtype.itemsize].view(dtype)

    def to_device(self, array: np.ndarray) -> Array:
        """The array in this memory: itself if it is there."""
        return array

    def to_host(self, array: Array) -> np.ndarray:
        """The array in the processor's memory: itself if it is there."""
        return array

    def renewed(self, old: Array | None, array: np.ndarray) -> Array:
        """As `to_device`; in the place of `old`, whose numbers are then gone, where it fits."""
        return array

    def holds(self, array: Array) -> bool:
        """Whether an array of the library, or of NumPy, lies in this memory."""
        return isinstance(array, self.library.ndarray)

    def copied(self, array: Array) -> Array:
        """A contiguous copy."""
        return array.copy()

    def clear(self, array: Array) -> None:
        """Makes every number 0."""
        array[...] = 0

    def address(self, array: Array) -> int:
        """Where its first element lies."""
        return array.__array_interface__["data"][0]

    def queue(self) -> int:
        """Which queue of work this thread's calls go to, where these run one after the other but not before they
        return: a device's stream."""
        return 0

    def moment(self) -> Any:
        """When the current queue will have done what it was given so far."""
        return None

    def wait_for(self, moment: Any) -> None:
        """What the current queue is given from here on begins after that moment, of whichever queue."""

    def hand_back(self, given: Any) -> None:
        """What the library of an array of the caller's does with it from here on comes after the work of the current
        queue."""

    # What is the same everywhere.

    def ready(self, value: Any, dtype: np.dtype | None = None) -> bool:
        """Whether a kernel can take `value` as it is, as one of `dtype` or of either float dtype, and write it: a quick
        test, which most of what callers hand over passes. The rest needs a closer look, and may be as good."""
        if type(value) is not self.plain or not value.flags.carray:  # contiguous, aligned and writable
            return False
        return value.dtype is dtype or (dtype is None and value.dtype in FLOATS)

    def check_place(self, name: str, value: Any, dtype: str = "float32") -> None:
        """TypeError for what is no array, is not in this memory, or has a gradient history."""
        if not is_array(value):
            kind = "None" if value is None else type(value).__name__
            advice = f"; pass np.asarray({name}, dtype=np.{dtype})" if isinstance(value, list | tuple) else ""
            raise TypeError(f"{name}: expected an array, got {kind}{advice}")
        place = {"cpu": "in the processor's memory", "cuda": "on a CUDA device"}
        if device_of(value) != self.device:
            raise Elsewhere(f"{name}: expected an array {place[self.device]}, got one on {device_of(value)}")
        if getattr(value, "requires_grad", False):
            raise TypeError(f"{name}: expected a tensor without gradient history; pass {name}.detach()")

    def floats(self, name: str, value: Any, dtype: np.dtype | None = None, like: str = "") -> Array:
        """The contiguous form of a float32 or float64 array, copied only where its layout needs it. TypeError for
        another dtype, or for one that is not `dtype`, that of the argument `like`."""
        if self.ready(value, dtype):
            return value
        array = self.view(name, value)
        if dtype is None and array.dtype not in FLOATS:
            raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}; pass {name}.astype(np.float32)")
        if dtype is not None and array.dtype != dtype:
            raise TypeError(
                f"{name}: expected {dtype} as {like} has, got {array.dtype}; pass {name}.astype(np.{dtype})"
            )
        return self.settled(array)

    def writable(self, name: str, value: Any, dtype: np.dtype, like: str) -> Array:
        """A view that is written: writable, contiguous, aligned, of the dtype of the argument `like`."""
        if self.ready(value, dtype):
            return value
        array = self.view(name, value)
        if array.dtype != dtype:
            raise TypeError(f"{name}: expected {dtype} as {like} has, got {array.dtype}")
        if not getattr(array.flags, "writeable", True):
            raise ValueError(f"{name}: expected a writable array, got a read-only one; {name} = {name}.copy() is one")
        if self.settled(array) is not array:
            raise ValueError(
                f"{name}: expected a contiguous, aligned array, got strides {array.strides} for shape {array.shape}; "
                f"{name} = np.ascontiguousarray({name}) is one"
            )
        return array

    def check_apart(self, name: str, target: Array, inputs: dict[str, Any]) -> None:
        """ValueError if `target` shares memory with an input, as the caller gave it: a copy would hide that."""
        for other, given in inputs.items():
            if given is None:
                continue
            array = given if type(given) is self.plain else self.view(other, given)
            if self.library.may_share_memory(target, array) and self.library.shares_memory(target, array):
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")
