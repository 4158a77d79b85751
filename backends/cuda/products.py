"""Products of matrices on a device by cuBLASLt, planned once, and then fit to be captured in a CUDA graph.

cuBLASLt reads by columns, we write by rows. A matrix by rows is its own transpose by columns, with the same leading
dimension, and out = op(a) op(b) is outᵀ = op(b)ᵀ op(a)ᵀ: so b comes first, a second, each with its own flag, and
nothing is moved. The columns of our out are the rows of cuBLASLt's D, along which its bias lies.
"""

import ctypes
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from fusedmlp.backends.cuda.cublaslt import (
    ROUNDED_INPUTS,
    ComputeType,
    CudaDataType,
    Epilogue,
    MatmulDescAttribute,
    MatmulHeuristicResult,
    MatmulPreferenceAttribute,
    Operation,
)

# By dtype: the type in memory, which is also that of alpha and beta, and ctypes' name of it.
_TYPES = {
    "float32": (CudaDataType.CUDA_R_32F, ctypes.c_float),
    "float64": (CudaDataType.CUDA_R_64F, ctypes.c_double),
}
# By dtype and precision.
_COMPUTE = {
    ("float32", "float32"): ComputeType.COMPUTE_32F,
    ("float32", "tf32"): ComputeType.COMPUTE_32F_FAST_TF32,
    ("float32", "bf16"): ComputeType.COMPUTE_32F_FAST_16BF,
    ("float64", "float64"): ComputeType.COMPUTE_64F,
}

MOST_ALIGNED = 256  # bytes: cuBLASLt asks for no more, and for this much of its workspace
# The preferences for alignment leave out the bias, and kernels that read it in 16 bytes have been chosen for one that
# was not so aligned, which ends in a fault of the device (pytorch/pytorch#194497, sm_75, CUDA 13.3).
BIAS_ALIGNED = 16


@dataclass(frozen=True, kw_only=True)
class Product:
    """out = op(a) op(b), or out += op(a) op(b), of matrices by rows, with or without a bias.

    m, n, k        out is (m, n), op(a) is (m, k), op(b) is (k, n); each at least 1
    lda, ldb, ldout  from one row to the next of a, b and out in memory, in elements: at least a row's length
    transpose_a    a lies in memory as (k, m), and op(a) is its transpose
    transpose_b    b lies in memory as (n, k), and op(b) is its transpose
    dtype          "float32" or "float64", of all arrays
    precision      of the multiplication: the dtype's own, the default, or for float32 "tf32" or "bf16"; sums are
                   float32, or float64 for float64
    accumulate     out is added to rather than overwritten
    bias           out[i, j] += bias[j] for a contiguous bias of n elements; needs an alignment of at least 16
    alignment      of every array's address, in bytes, as the caller promises: a power of two, by default the dtype's
                   size

    Raises ValueError for anything else.
    """

    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldout: int
    transpose_a: bool = False
    transpose_b: bool = False
    dtype: str = "float32"
    precision: str = ""
    accumulate: bool = False
    bias: bool = False
    alignment: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES:
            raise ValueError(f"dtype: expected float32 or float64, got {self.dtype!r}")
        # Spelled out, so that products that are the same are equal, and planned once.
        object.__setattr__(self, "precision", self.precision or self.dtype)
        object.__setattr__(self, "alignment", self.alignment or self.itemsize)
        if (self.dtype, self.precision) not in _COMPUTE:
            known = [precision for dtype, precision in _COMPUTE if dtype == self.dtype]
            raise ValueError(f"precision: expected {' or '.join(known)} for {self.dtype}, got {self.precision!r}")
        if min(self.m, self.n, self.k) < 1:
            raise ValueError(f"m, n and k: expected at least 1 each, got {self.m}, {self.n} and {self.k}")
        columns = (self.m if self.transpose_a else self.k, self.k if self.transpose_b else self.n, self.n)
        for name, ld, row in zip(("lda", "ldb", "ldout"), (self.lda, self.ldb, self.ldout), columns, strict=True):
            if ld < row:
                raise ValueError(f"{name}: expected at least {row}, the length of a row, got {ld}")
        if self.alignment & (self.alignment - 1) or self.alignment < self.itemsize:
            raise ValueError(f"alignment: expected a power of two from {self.itemsize} on, got {self.alignment}")
        if self.bias and self.alignment < BIAS_ALIGNED:
            raise ValueError(f"bias: expected arrays aligned to {BIAS_ALIGNED} bytes, got {self.alignment}")

    @classmethod
    def of(
        cls,
        a: tuple[int, int],
        b: tuple[int, int],
        leading: tuple[int, int, int] | None = None,
        *,
        dtype: np.dtype,
        precision: str = "",
        transpose_a: bool = False,
        transpose_b: bool = False,
        **rest: Any,
    ) -> "Product":
        """The product of matrices of these shapes, as they lie in memory.

        leading  dimensions of a, b and out: None where they are contiguous
        rest     fields by their names
        """
        (m, k), (inner, n) = a[::-1] if transpose_a else a, b[::-1] if transpose_b else b
        if k != inner:
            raise ValueError(f"a and b: expected shapes that fit, got op(a) {m, k} and op(b) {inner, n}")
        lda, ldb, ldout = leading or (a[1], b[1], n)
        return cls(
            m=m,
            n=n,
            k=k,
            lda=lda,
            ldb=ldb,
            ldout=ldout,
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            dtype=dtype.name,
            precision=precision,
            **rest,
        )

    @property
    def itemsize(self) -> int:
        return ctypes.sizeof(_TYPES[self.dtype][1])

    def __str__(self) -> str:
        a = f"({self.k}, {self.m})ᵀ" if self.transpose_a else f"({self.m}, {self.k})"
        b = f"({self.n}, {self.k})ᵀ" if self.transpose_b else f"({self.k}, {self.n})"
        return (
            f"({self.m}, {self.n}) {'+=' if self.accumulate else '='} {a} @ {b}{' + bias' * self.bias} in {self.dtype}"
            f" by {self.precision}, leading dimensions {self.lda}, {self.ldb} and {self.ldout}"
            f" of a, b and out, aligned to {self.alignment} bytes"
        )


class Planned:
    """A product with its descriptors and its algorithm, for the `Products` that made it."""

    def __init__(self, product: Product, descriptor: int, a: int, b: int, out: int) -> None:
        self.product = product
        self.descriptor = descriptor
        self.a, self.b, self.out = a, b, out  # the layouts
        _, scale = _TYPES[product.dtype]
        self.alpha, self.beta = scale(1), scale(product.accumulate)
        # No bias as yet, but the heuristic reads from the address how it will be aligned.
        self.bias = ctypes.c_void_p(product.alignment)
        self.result = MatmulHeuristicResult()

    @property
    def algorithm(self) -> bytes:
        """The pinned algorithm, for `Products.plan` with the same product, version of cuBLAS and kind of device."""
        return bytes(self.result.algo)


class Products:
    """Products on one device by cuBLASLt.

    library          what `cublaslt.library` gives
    workspace_bytes  the size of every workspace, which takes part in the choice of an algorithm

    `plan` first, while nothing is being captured (cuBLASLt 13.3 refuses to choose an algorithm during a capture), and
    run each product once, since its kernel is loaded by its first run. From then on a call neither allocates nor
    synchronizes, and can be captured.

    A bias's address is kept in the plan: one thread at a time, on any stream.

    Raises ValueError for what the caller got wrong, and RuntimeError with the call, the status and the product where
    cuBLASLt refuses.
    """

    def __init__(self, library: Any, workspace_bytes: int) -> None:
        self._library = library
        self._workspace_bytes = workspace_bytes
        self._handle = 0  # made with the first plan: it needs a device
        self._plans: dict[tuple[Product, bytes | None], Planned] = {}
        self._owned = ExitStack()
        # Not at exit, when the driver may have gone before: the end of a process frees everything.
        weakref.finalize(self, self._owned.close).atexit = False

    def plan(self, product: Product, algorithm: bytes | None = None) -> Planned:
        """The product made ready, with the algorithm given, else with the first that cuBLASLt's heuristic names. Equal
        arguments get the same plan: another algorithm would add up in another order."""
        key = product, algorithm
        if key not in self._plans:
            with ExitStack() as created:
                self._plans[key] = self._plan(product, algorithm, created)
                self._owned.callback(created.pop_all().close)
        return self._plans[key]

    def __call__(
        self, planned: Planned, a: int, b: int, out: int, stream: int, bias: int = 0, workspace: int = 0
    ) -> None:
        """Runs the product on a stream, from and to addresses on the device; a bias is given if and only if it was
        planned. The workspace, a multiple of 256 bytes, belongs to the product until it has run: what runs at the same
        time has another. The caller does not wait."""
        product = planned.product
        if product.bias != bool(bias):
            raise ValueError(f"bias: expected {'an address' if product.bias else 'none'}, got {bias:#x}, for {product}")
        if (a | b | out | bias) % product.alignment:
            found = f"a {a:#x}, b {b:#x}, out {out:#x}, bias {bias:#x}"
            raise ValueError(f"addresses: expected multiples of {product.alignment}, got {found}, for {product}")
        if workspace % MOST_ALIGNED or bool(workspace) != bool(self._workspace_bytes):
            expected = f"a multiple of {MOST_ALIGNED}" if self._workspace_bytes else "none"
            raise ValueError(f"workspace: expected {expected}, got {workspace:#x}, for {product}")
        if product.bias and planned.bias.value != bias:
            planned.bias.value = bias
            self._set("matmul_desc", planned.descriptor, MatmulDescAttribute.BIAS_POINTER, planned.bias, product)
        alpha, beta, algorithm = map(ctypes.addressof, (planned.alpha, planned.beta, planned.result.algo))
        operands = alpha, b, planned.b, a, planned.a, beta, out, planned.out, out, planned.out
        arguments = self._handle, planned.descriptor, *operands, algorithm, workspace, self._workspace_bytes, stream
        self._call("matmul", arguments, product)

    def _plan(self, product: Product, algorithm: bytes | None, created: ExitStack) -> Planned:
        if not self._handle:
            self._handle = self._create("create", (), product, self._owned)
        kind, _ = _TYPES[product.dtype]
        a = (product.k, product.m) if product.transpose_a else (product.m, product.k)
        b = (product.n, product.k) if product.transpose_b else (product.k, product.n)
        layouts = (
            self._create("matrix_layout_create", (kind, columns, rows, ld), product, created)
            for (rows, columns), ld in (
                (a, product.lda),
                (b, product.ldb),
                ((product.m, product.n), product.ldout),
            )
        )
        compute = _COMPUTE[product.dtype, product.precision]
        planned = Planned(product, self._create("matmul_desc_create", (compute, kind), product, created), *layouts)
        attributes: dict[MatmulDescAttribute, Any] = {
            MatmulDescAttribute.TRANSA: ctypes.c_int32(Operation.T if product.transpose_b else Operation.N),
            MatmulDescAttribute.TRANSB: ctypes.c_int32(Operation.T if product.transpose_a else Operation.N),
        }
        if product.bias:
            attributes[MatmulDescAttribute.EPILOGUE] = ctypes.c_uint32(Epilogue.BIAS)
            attributes[MatmulDescAttribute.BIAS_POINTER] = planned.bias
        for attribute, value in attributes.items():
            self._set("matmul_desc", planned.descriptor, attribute, value, product)
        if algorithm is None:
            self._choose(planned)
        else:
            self._take(planned, algorithm)
        return planned

    def _choose(self, planned: Planned) -> None:
        """Pins the first algorithm that the heuristic names for the product."""
        product = planned.product
        a, b, out = (
            ctypes.c_uint32(gcd(MOST_ALIGNED, product.alignment, ld * product.itemsize))  # of every row
            for ld in (product.lda, product.ldb, product.ldout)
        )
        attributes: dict[MatmulPreferenceAttribute, Any] = {
            MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES: ctypes.c_uint64(self._workspace_bytes),
            MatmulPreferenceAttribute.MIN_ALIGNMENT_A_BYTES: b,
            MatmulPreferenceAttribute.MIN_ALIGNMENT_B_BYTES: a,
            MatmulPreferenceAttribute.MIN_ALIGNMENT_C_BYTES: out,
            MatmulPreferenceAttribute.MIN_ALIGNMENT_D_BYTES: out,
        }
        if product.precision == "float32":
            # The compute type already means it, but NVIDIA_TF32_OVERRIDE=1 is said to change its meaning.
            attributes[MatmulPreferenceAttribute.IMPL_MASK] = ctypes.c_uint64(~ROUNDED_INPUTS)
        found = ctypes.c_int()
        with ExitStack() as created:
            preference = self._create("matmul_preference_create", (), product, created)
            for attribute, value in attributes.items():
                self._set("matmul_preference", preference, attribute, value, product)
            addresses = ctypes.addressof(planned.result), ctypes.addressof(found)
            self._call("matmul_algo_get_heuristic", (*self._form(planned), preference, 1, *addresses), product)
        if not found.value or planned.result.state:
            workspace = f"{self._workspace_bytes} bytes of workspace"
            raise RuntimeError(f"cuBLASLt has no algorithm that needs no more than {workspace}, for {product}")

    def _take(self, planned: Planned, algorithm: bytes) -> None:
        """Pins an algorithm given back, once cuBLASLt has agreed that it fits."""
        result, product = planned.result, planned.product
        if len(algorithm) != (size := ctypes.sizeof(result.algo)):
            raise ValueError(f"algorithm: expected {size} bytes, got {len(algorithm)}, for {product}")
        ctypes.memmove(ctypes.byref(result.algo), algorithm, len(algorithm))
        addresses = ctypes.addressof(result.algo), ctypes.addressof(result)
        self._call("matmul_algo_check", (*self._form(planned), *addresses), product)
        if result.workspace_size > self._workspace_bytes:
            needs = f"{result.workspace_size} bytes of workspace and there are {self._workspace_bytes}"
            raise RuntimeError(f"algorithm: it takes {needs}, for {product}")

    def _form(self, planned: Planned) -> tuple[int, ...]:
        return self._handle, planned.descriptor, planned.b, planned.a, planned.out, planned.out

    def _create(self, name: str, arguments: tuple, product: Product, owner: ExitStack) -> int:
        handle = self._call(name, arguments, product)
        owner.callback(getattr(self._library, name.replace("create", "destroy")), handle)
        return handle

    def _set(self, kind: str, handle: int, attribute: int, value: Any, product: Product) -> None:
        self._call(f"{kind}_set_attribute", (handle, attribute, ctypes.addressof(value), ctypes.sizeof(value)), product)

    def _call(self, name: str, arguments: tuple, product: Product) -> Any:
        try:
            return getattr(self._library, name)(*arguments)
        except self._library.cuBLASLtError as error:
            raise RuntimeError(f"cuBLASLt's {name} of {product}: {error}") from error
