"""cuBLASLt on NumPy: the functions that products use (backends/cuda/cublaslt.py), for addresses of this process.

Written from NVIDIA's description of cublasLtMatmul and its descriptors, and sharing nothing with backends/ but the
structure of a heuristic's result: matrices by columns, D = alpha op(A) op(B) + beta C, a bias along the rows of D.
What cuBLASLt would refuse raises; what would be a fault of the device, an address less aligned than the heuristic was
told, is an AssertionError.
"""

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from fusedmlp.backends.cuda.cublaslt import MatmulHeuristicResult

# By number, as in cublas_api.h and cublasLt.h.
DTYPES = {0: np.float32, 1: np.float64}
COMPUTE_DTYPES = {68: np.float32, 75: np.float32, 77: np.float32, 70: np.float64}
MANTISSA_BITS = {75: 7, 77: 10}
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8
EPILOGUE_DEFAULT, EPILOGUE_BIAS = 1, 4
MAX_WORKSPACE_BYTES, ALIGNMENTS = 1, (5, 6, 7, 8)
SIGNATURE = 0xFA4E  # of an algorithm of this library
SIZES = {TRANSA: 4, TRANSB: 4, EPILOGUE: 4, BIAS_POINTER: 8}
PREFERENCE_SIZES = {MAX_WORKSPACE_BYTES: 8, 12: 8} | dict.fromkeys(ALIGNMENTS, 4)


NUMBER_AT = 6 * 8  # byte of an algorithm where its number begins


class FakeError(Exception):
    pass


def numbered(algorithm, number):
    """The algorithm of another number, for the same product."""
    return algorithm[:NUMBER_AT] + number.to_bytes(8, "little") + algorithm[NUMBER_AT + 8 :]


@dataclass
class Descriptor:
    compute: int
    scale: int
    attributes: dict = field(default_factory=lambda: {TRANSA: 0, TRANSB: 0, EPILOGUE: EPILOGUE_DEFAULT})


@dataclass
class Layout:
    dtype: int
    rows: int
    columns: int
    ld: int

    def view(self, address):
        """The matrix at an address, by columns."""
        dtype = np.dtype(DTYPES[self.dtype])
        length = (self.columns - 1) * self.ld + self.rows
        flat = memory(address, length, dtype)
        strides = dtype.itemsize, self.ld * dtype.itemsize
        return np.lib.stride_tricks.as_strided(flat, (self.rows, self.columns), strides)


@dataclass
class Preference:
    attributes: dict = field(default_factory=lambda: {MAX_WORKSPACE_BYTES: 0} | dict.fromkeys(ALIGNMENTS, 256))


def memory(address, length, dtype):
    return np.frombuffer((ctypes.c_char * (length * dtype.itemsize)).from_address(address), dtype)


def rounded(matrix, bits):
    """float32 with so many bits of mantissa, the nearest, ties to even: as tensor cores are fed."""
    drop = np.uint32(23 - bits)
    words = np.ascontiguousarray(matrix).view(np.uint32)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1) + ((words >> drop) & np.uint32(1))
    nearest = ((words + half) >> drop << drop).view(np.float32)
    return np.where(np.isnan(matrix), matrix, nearest)


class FakeCublasLt:
    """Counts its calls by name in `calls`, keeps what was created and not destroyed in `objects`, and the preferences
    that it was asked for an algorithm with in `asked`.

    workspace_needed  bytes that each of its two algorithms takes; with less allowed the heuristic finds none
    first             the number of the algorithm that the heuristic names first, 0 or 1

    `ran` counts the products that each algorithm made. Algorithm 1 sums the inner dimension in two halves.
    """

    cuBLASLtError = FakeError

    def __init__(self, workspace_needed=0, first=0):
        self.workspace_needed, self.first = workspace_needed, first
        self.calls, self.ran = Counter(), Counter()
        self.objects, self.asked = {}, []
        self._handles = count(1)

    def create(self):
        return self._made("create", "library")

    def matmul_desc_create(self, compute_type, scale_type):
        if DTYPES[scale_type] != COMPUTE_DTYPES[compute_type]:
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        return self._made("matmul_desc_create", Descriptor(compute_type, scale_type))

    def matrix_layout_create(self, type, rows, cols, ld):
        return self._made("matrix_layout_create", Layout(type, rows, cols, ld))

    def matmul_preference_create(self):
        return self._made("matmul_preference_create", Preference())

    def destroy(self, light_handle):
        self._destroyed("destroy", light_handle, str)

    def matmul_desc_destroy(self, matmul_desc):
        self._destroyed("matmul_desc_destroy", matmul_desc, Descriptor)

    def matrix_layout_destroy(self, mat_layout):
        self._destroyed("matrix_layout_destroy", mat_layout, Layout)

    def matmul_preference_destroy(self, pref):
        self._destroyed("matmul_preference_destroy", pref, Preference)

    def matmul_desc_set_attribute(self, matmul_desc, attr, buf, size_in_bytes):
        self.calls["matmul_desc_set_attribute"] += 1
        self._set(self._get(matmul_desc, Descriptor), attr, buf, size_in_bytes, SIZES[attr])

    def matmul_preference_set_attribute(self, pref, attr, buf, size_in_bytes):
        self.calls["matmul_preference_set_attribute"] += 1
        self._set(self._get(pref, Preference), attr, buf, size_in_bytes, PREFERENCE_SIZES[attr])

    def matmul_algo_get_heuristic(
        self, light_handle, operation_desc, adesc, bdesc, cdesc, ddesc, preference,
        requested_algo_count, heuristic_results_array, return_algo_count
    ):  # fmt: skip
        """An algorithm remembers what was promised: the alignments of A, B, C, D and the bias."""
        self.calls["matmul_algo_get_heuristic"] += 1
        self._get(light_handle, str)
        described, *_ = self._form(operation_desc, adesc, bdesc, cdesc, ddesc)
        wishes = self._get(preference, Preference).attributes
        self.asked.append(wishes)
        fits = wishes[MAX_WORKSPACE_BYTES] >= self.workspace_needed
        found = (self.first, 1 - self.first)[:requested_algo_count] if fits else ()
        ctypes.c_int.from_address(return_algo_count).value = len(found)
        bias = described.attributes.get(BIAS_POINTER, 0)
        promised = *(wishes[which] for which in ALIGNMENTS), bias & -bias or 256
        results = (MatmulHeuristicResult * len(found)).from_address(heuristic_results_array)
        for number, result in zip(found, results, strict=True):
            result.algo.data[:] = [SIGNATURE, *promised, number, 0]
            result.workspace_size, result.state = self.workspace_needed, 0

    def matmul_algo_check(self, light_handle, operation_desc, adesc, bdesc, cdesc, ddesc, algo, result):
        self.calls["matmul_algo_check"] += 1
        self._get(light_handle, str)
        self._form(operation_desc, adesc, bdesc, cdesc, ddesc)
        self._algorithm(algo)
        MatmulHeuristicResult.from_address(result).workspace_size = self.workspace_needed

    def matmul(
        self, light_handle, compute_desc, alpha, a, adesc, b, bdesc, beta, c, cdesc, d, ddesc, algo,
        workspace, workspace_size_in_bytes, stream
    ):  # fmt: skip
        self.calls["matmul"] += 1
        self._get(light_handle, str)
        described, a_layout, b_layout, c_layout, d_layout = self._form(compute_desc, adesc, bdesc, cdesc, ddesc)
        assert c != d or c_layout == d_layout, "in place, C and D must be laid out alike"
        if workspace_size_in_bytes < self.workspace_needed:
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype, bias = np.dtype(DTYPES[described.scale]), described.attributes.get(BIAS_POINTER, 0)
        steps = [layout.ld * dtype.itemsize for layout in (a_layout, b_layout, c_layout, d_layout)]
        *promised, number = self._algorithm(algo)
        self.ran[number] += 1
        for address, step, alignment in zip((a, b, c, d, bias), (*steps, 0), promised, strict=True):
            assert address % alignment == step % alignment == 0, f"{alignment} bytes were promised, {address:#x} came"
        alpha, beta = (memory(address, 1, dtype)[0] for address in (alpha, beta))
        first, second = (
            matrix.T if described.attributes[operation] else matrix
            for matrix, operation in ((a_layout.view(a), TRANSA), (b_layout.view(b), TRANSB))
        )
        if bits := MANTISSA_BITS.get(described.compute):
            first, second = rounded(first, bits), rounded(second, bits)
        half = first.shape[1] // 2 if number else 0
        result = alpha * (first[:, :half] @ second[:half] + first[:, half:] @ second[half:])
        if beta:  # C is not read where beta is 0, so that a NaN in it does no harm
            result += beta * c_layout.view(c)
        if described.attributes[EPILOGUE] == EPILOGUE_BIAS:
            result += memory(bias, d_layout.rows, dtype)[:, None]
        d_layout.view(d)[...] = result

    def _made(self, name, thing):
        self.calls[name] += 1
        handle = next(self._handles)
        self.objects[handle] = thing
        return handle

    def _destroyed(self, name, handle, kind):
        self.calls[name] += 1
        self._get(handle, kind)
        del self.objects[handle]

    def _get(self, handle, kind):
        if not isinstance(thing := self.objects.get(handle), kind):
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        return thing

    def _set(self, thing, attribute, address, size, expected):
        if size != expected:
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        thing.attributes[attribute] = int.from_bytes(ctypes.string_at(address, size), "little")

    def _form(self, descriptor, *layouts):
        """The descriptor and layouts of A, B, C and D, as far as they fit together."""
        described = self._get(descriptor, Descriptor)
        a, b, c, d = (self._get(layout, Layout) for layout in layouts)
        (m, k), (k_of_b, n) = (
            (matrix.columns, matrix.rows) if described.attributes[operation] else (matrix.rows, matrix.columns)
            for matrix, operation in ((a, TRANSA), (b, TRANSB))
        )
        if k != k_of_b or any((matrix.rows, matrix.columns) != (m, n) for matrix in (c, d)):
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        if any(matrix.ld < matrix.rows for matrix in (a, b, c, d)):
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        if any(matrix.dtype != described.scale for matrix in (a, b, c, d)):
            raise FakeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return described, a, b, c, d

    def _algorithm(self, address):
        signature, *promised, number = (ctypes.c_uint64 * 7).from_address(address)
        if signature != SIGNATURE:
            raise FakeError("CUBLAS_STATUS_INVALID_VALUE")
        if number not in (0, 1):
            raise FakeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return *promised, number
