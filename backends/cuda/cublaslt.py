"""cuBLASLt as far as products need it: as nvmath-python binds it, or by ctypes under the same names.

Numbers, structures and parameters are those of cublasLt.h and cublas_api.h of cuBLAS 12.9.3 and 13.10.0 (wheels
nvidia-cublas-cu12 12.9.3.13 and nvidia-cublas 13.10.0.20), which agree in all that stands here.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import Any

from fusedmlp.backends.install import for_cuda

FILES = (
    ("cublasLt64_13.dll", "cublasLt64_12.dll")
    if os.name == "nt"
    else ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so")
)


class CudaDataType(IntEnum):
    CUDA_R_32F = 0
    CUDA_R_64F = 1


class ComputeType(IntEnum):
    """Only the FAST ones may round float32 operands to a shorter format before they multiply."""

    COMPUTE_32F = 68
    COMPUTE_32F_FAST_16BF = 75
    COMPUTE_32F_FAST_TF32 = 77
    COMPUTE_64F = 70


class Operation(IntEnum):
    N = 0
    T = 1


class Epilogue(IntEnum):
    BIAS = 4


class MatmulDescAttribute(IntEnum):
    TRANSA = 3  # int32, as is the next
    TRANSB = 4
    EPILOGUE = 7  # uint32
    BIAS_POINTER = 8  # a device's address


class MatmulPreferenceAttribute(IntEnum):
    MAX_WORKSPACE_BYTES = 1  # uint64
    MIN_ALIGNMENT_A_BYTES = 5  # uint32, as are the next three
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8
    IMPL_MASK = 12  # uint64


# CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F, _16BF and _TF32: bits of MatmulPreferenceAttribute.IMPL_MASK.
ROUNDED_INPUTS = 0b111 << 16


class MatmulAlgo(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes that mean something to the version of cuBLAS they came from."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class MatmulHeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, the bytes of workspace that it takes, and a status."""

    _fields_ = (
        ("algo", MatmulAlgo),
        ("workspace_size", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves_count", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_INT, _SIZE, _ADDRESS = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
# What each function takes. Those that create give a handle back, which in C is their first parameter.
PARAMETERS: dict[str, tuple[type, ...]] = {
    "create": (),
    "destroy": (_ADDRESS,),
    "matmul_desc_create": (_INT, _INT),
    "matmul_desc_destroy": (_ADDRESS,),
    "matmul_desc_set_attribute": (_ADDRESS, _INT, _ADDRESS, _SIZE),
    "matrix_layout_create": (_INT, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "matrix_layout_destroy": (_ADDRESS,),
    "matmul_preference_create": (),
    "matmul_preference_destroy": (_ADDRESS,),
    "matmul_preference_set_attribute": (_ADDRESS, _INT, _ADDRESS, _SIZE),
    "matmul_algo_get_heuristic": (*(_ADDRESS,) * 7, _INT, _ADDRESS, _ADDRESS),
    "matmul_algo_check": (_ADDRESS,) * 8,
    "matmul": (*(_ADDRESS,) * 14, _SIZE, _ADDRESS),
}


class CublasLtError(Exception):
    """A status other than success; the message is its name."""


class CublasLt:
    """`nvmath.bindings.cublasLt` by ctypes, as far as PARAMETERS goes: the same names and arguments, with handles and
    addresses as integers. A status other than success raises `cuBLASLtError`."""

    cuBLASLtError = CublasLtError

    def __init__(self, shared_library: Any) -> None:
        self._status_name = shared_library.cublasLtGetStatusName
        self._status_name.argtypes, self._status_name.restype = (_INT,), ctypes.c_char_p
        for name, parameters in PARAMETERS.items():
            function = getattr(shared_library, "cublasLt" + name.title().replace("_", ""))
            creates = name.endswith("create")
            function.argtypes = (_ADDRESS, *parameters) if creates else parameters
            function.restype = _INT
            setattr(self, name, self._creating(function) if creates else self._checked(function))

    def _checked(self, function: Callable[..., int]) -> Callable[..., None]:
        def call(*arguments: int) -> None:
            if status := function(*arguments):
                raise CublasLtError(f"{self._status_name(status).decode()} ({status})")

        return call

    def _creating(self, function: Callable[..., int]) -> Callable[..., int]:
        checked = self._checked(function)

        def create(*arguments: int) -> int:
            handle = ctypes.c_void_p()
            checked(ctypes.addressof(handle), *arguments)
            return handle.value or 0

        return create


def library() -> Any:
    """`nvmath.bindings.cublasLt`, or a CublasLt where nvmath-python is missing or finds no cuBLASLt. Raises OSError
    where there is no cuBLASLt."""
    try:
        from nvmath.bindings import cublasLt

        cublasLt.get_version()  # the first call loads the shared library
    except (ImportError, RuntimeError):
        return CublasLt(_shared_library())
    return cublasLt


def _shared_library() -> ctypes.CDLL:
    with suppress(ImportError, RuntimeError):  # it comes with numba-cuda, and knows pip's, conda's and CUDA's folders
        from cuda.pathfinder import load_nvidia_dynamic_lib

        if path := load_nvidia_dynamic_lib("cublasLt").abs_path:
            return ctypes.CDLL(path)
    for file in FILES:
        with suppress(OSError):
            return ctypes.CDLL(file)
    raise OSError(f"cuBLASLt was not found, neither by cuda-pathfinder nor as {', '.join(FILES)}; {for_cuda()}")
