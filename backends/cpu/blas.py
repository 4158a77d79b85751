"""SciPy's BLAS: the second implementation of a tile's product, to test the first against and to fall back on. Its
threads are held to one while ours call it."""

import ctypes
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedmlp.backends.cpu.compiling import CALLED, INNER_LOOP
from fusedmlp.backends.cpu.machine import row
from fusedmlp.backends.cpu.vectors import int32, int64
from fusedmlp.backends.views import itemsize_of, source_of

NAME = "scipy.linalg.cython_blas"
ROUTINES = {"float32": "sgemm", "float64": "dgemm"}


@cache
def cython_blas() -> Any:
    """scipy.linalg.cython_blas by itself: scipy.linalg around it, which nothing here needs, takes 0.2 s to import."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    (scipy,) = importlib.import_module("scipy").__path__
    spec = importlib.machinery.PathFinder.find_spec(NAME, [str(Path(scipy) / "linalg")])
    if spec is None or spec.loader is None:
        return importlib.import_module(NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def importable() -> Iterator[None]:
    """Within it whoever imports scipy.linalg.cython_blas, as Numba does, gets the module by itself. It does not stay
    importable so: scipy.linalg, if it is imported later, would be without it."""
    if NAME in sys.modules:
        yield
        return
    sys.modules[NAME] = cython_blas()
    try:
        yield
    finally:
        sys.modules.pop(NAME, None)


@cache
def load(name: str, digest: str) -> None:
    """Gives LLVM the address of SciPy's product of the dtype of that name, under a symbol of our own. A ctypes pointer
    would be compiled in as a number, and defeat the cache."""
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    routine = ROUTINES[name]
    capsule = cython_blas().__pyx_capi__[routine]
    llvm.add_symbol(_symbol(name), address_of(capsule, name_of(capsule)))


def _symbol(name: str) -> str:
    return f"fusedmlp_{ROUTINES[name]}"


def room(dtype: np.dtype) -> int:
    """It takes none of our scratch."""
    return 0


@njit(**CALLED)
def matmul_tile(c, a, transpose_a, b, transpose_b, z, accumulate, bias):
    """The word. BLAS adds to what is there: a bias is put there first."""
    if bias.shape[0] > 0:
        for i in range(z.shape[0]):
            copy_row(bias, row(z, i))
        accumulate = True
    gemm(a, transpose_a, b, transpose_b, z, accumulate)


@njit(**INNER_LOOP)
def copy_row(a, y):
    for j in range(y.shape[0]):
        y[j] = a[j]


@intrinsic
def gemm(typing_context, a, transpose_a, b, transpose_b, z, accumulate):
    """z = op(a) op(b), or z += : row-major blocks through BLAS, which counts by columns, so it is handed the
    transposed product, zᵀ = op(b)ᵀ op(a)ᵀ. Sizes must fit 32 bits."""

    def generate(context, builder, signature, arguments):
        a, b, z = (source_of(context, builder, signature, arguments, i) for i in (0, 2, 4))
        transpose_a, transpose_b, accumulate = (arguments[i] for i in (1, 3, 5))
        scalar = context.get_data_type(z_type.dtype)
        itemsize = itemsize_of(context, types, z_type)

        def cell(value):
            place = cgutils.alloca_once(builder, value.type)
            builder.store(value, place)
            return builder.bitcast(place, cgutils.voidptr_t)

        def integer(value):
            return cell(builder.trunc(value, int32))

        def leading(array):
            """The length of a row in memory; NumPy gives a single row any stride, BLAS wants at least its columns."""
            stride = builder.sdiv(cgutils.unpack_tuple(builder, array.strides, 2)[0], itemsize)
            columns = cgutils.unpack_tuple(builder, array.shape, 2)[1]
            least = builder.select(builder.icmp_signed(">", columns, int64(1)), columns, int64(1))
            return integer(builder.select(builder.icmp_signed(">", stride, least), stride, least))

        def letter(flag):
            yes, no = (ir.Constant(ir.IntType(8), ord(x)) for x in "TN")
            return cell(builder.select(context.cast(builder, flag, types.boolean, types.boolean), yes, no))

        def pointer(array):
            return builder.bitcast(array.data, cgutils.voidptr_t)

        rows, columns = cgutils.unpack_tuple(builder, z.shape, 2)
        shape_a = cgutils.unpack_tuple(builder, a.shape, 2)
        inner = builder.select(transpose_a, shape_a[0], shape_a[1])
        one, zero = ir.Constant(scalar, 1.0), ir.Constant(scalar, 0.0)
        operands = [
            letter(transpose_b),
            letter(transpose_a),
            integer(columns),
            integer(rows),
            integer(inner),
            cell(one),
            pointer(b),
            leading(b),
            pointer(a),
            leading(a),
            cell(builder.select(accumulate, one, zero)),
            pointer(z),
            leading(z),
        ]
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t] * len(operands))
        builder.call(cgutils.get_or_insert_function(builder.module, kind, _symbol(z_type.dtype.name)), operands)
        return context.get_dummy_value()

    z_type = z
    return types.void(a, types.boolean, b, types.boolean, z, types.boolean), generate


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
