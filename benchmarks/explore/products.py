"""cuBLASLt: what its best algorithm gains over the first that its heuristic names, and what its ReLU does to NaN, ±0
and ±inf.

As in backends/cuda/products.py: cuBLASLt reads by columns, so out = op(a) op(b) by rows is asked for as
outᵀ = op(b)ᵀ op(a)ᵀ, with b first.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fusedmlp.backends.cuda.cublaslt import (
    ComputeType,
    CudaDataType,
    MatmulDescAttribute,
    MatmulHeuristicResult,
    MatmulPreferenceAttribute,
    Operation,
    library,
)
from fusedmlp.benchmarks.explore.gpu import Gpu, Work
from fusedmlp.benchmarks.explore.notebook import Notebook

SIZES = (784, 1024, 1024, 10)
BATCH = 512
REQUESTED = 16  # algorithms
REPEATS = 20  # of a product in a graph
SCREENING = 7  # repetitions, of each algorithm
SCREENING_WARM = 0.005  # seconds
WORKSPACE_BYTES = 32 << 20

# cublasLt.h, beyond what the library uses.
CUDA_R_16BF = 14
AUX_POINTER, AUX_LD = 11, 12  # cublasLtMatmulDescAttributes_t: an address, and int64 in bits, a multiple of 128
RELU, BIAS, AUX, DRELU = 2, 4, 128, 8 | 128  # cublasLtEpilogue_t


@dataclass(frozen=True)
class Kind:
    """A way to multiply: the operands' type, the compute type, and the allowed relative error."""

    stored: int
    compute: ComputeType
    allowed: float


KINDS = {
    "float32": Kind(CudaDataType.CUDA_R_32F, ComputeType.COMPUTE_32F, 1e-5),
    "tf32": Kind(CudaDataType.CUDA_R_32F, ComputeType.COMPUTE_32F_FAST_TF32, 2e-3),
    "bf16 of float32 arrays": Kind(CudaDataType.CUDA_R_32F, ComputeType.COMPUTE_32F_FAST_16BF, 1e-2),
    "bf16 arrays": Kind(CUDA_R_16BF, ComputeType.COMPUTE_32F, 1e-2),
}


@dataclass(frozen=True)
class Form:
    """out (m, n) = op(a) op(b), contiguous by rows; a transposed operand lies in memory as op(a)ᵀ.

    A weight's gradient stays float32 where the operands are bf16: it meets float32 masters.
    """

    name: str
    m: int
    n: int
    k: int
    transpose_a: bool = False
    transpose_b: bool = False
    widens: bool = False

    @property
    def shape_a(self) -> tuple[int, int]:
        """In memory."""
        return (self.k, self.m) if self.transpose_a else (self.m, self.k)

    @property
    def shape_b(self) -> tuple[int, int]:
        return (self.n, self.k) if self.transpose_b else (self.k, self.n)


def forms(sizes: tuple[int, ...] = SIZES, batch: int = BATCH) -> list[Form]:
    """The products of a training step, with weights (O, I)."""
    layers = list(enumerate(pairwise(sizes), 1))
    return (
        [Form(f"forward {n}", batch, outputs, inputs, transpose_b=True) for n, (inputs, outputs) in layers]
        + [Form(f"dx {n}", batch, inputs, outputs) for n, (inputs, outputs) in layers[1:]]
        + [Form(f"dW {n}", outputs, inputs, batch, transpose_a=True, widens=True) for n, (inputs, outputs) in layers]
    )


def to_bf16(value: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bf16, ties to even, as its bits in uint16. Not for NaN."""
    bits = value.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Multiplication:
    """One form in one kind, on arrays of its own."""

    def __init__(self, gpu: Gpu, lt: Any, handle: int, form: Form, kind: Kind, workspace: Any) -> None:
        self.gpu, self.lt, self.handle, self.form, self.kind, self.workspace = gpu, lt, handle, form, kind, workspace
        rng = np.random.default_rng(7)
        short = kind.stored == CUDA_R_16BF
        given = [rng.standard_normal(shape, dtype=np.float32) for shape in (form.shape_a, form.shape_b)]
        stored = [to_bf16(value) if short else value for value in given]
        a, b = (from_bf16(value) if short else value for value in stored)
        self.a, self.b = (gpu.array(value) for value in stored)
        self.expected = (a.T if form.transpose_a else a).astype(np.float64) @ (b.T if form.transpose_b else b)
        self.short_out = short and not form.widens
        self.out = gpu.empty(form.m * form.n, np.uint16 if self.short_out else np.float32)
        out_kind = CUDA_R_16BF if self.short_out else CudaDataType.CUDA_R_32F
        self.layouts = [
            lt.matrix_layout_create(stored_as, columns, rows, columns)
            for stored_as, (rows, columns) in (
                (kind.stored, form.shape_b),
                (kind.stored, form.shape_a),
                (out_kind, (form.m, form.n)),
                (out_kind, (form.m, form.n)),
            )
        ]
        self.descriptor = lt.matmul_desc_create(kind.compute, CudaDataType.CUDA_R_32F)
        self.set(MatmulDescAttribute.TRANSA, ctypes.c_int32(Operation.T if form.transpose_b else Operation.N))
        self.set(MatmulDescAttribute.TRANSB, ctypes.c_int32(Operation.T if form.transpose_a else Operation.N))
        self.one, self.zero = ctypes.c_float(1), ctypes.c_float(0)

    def set(self, attribute: int, value: Any) -> None:
        address, size = ctypes.addressof(value), ctypes.sizeof(value)
        self.lt.matmul_desc_set_attribute(self.descriptor, attribute, address, size)

    def algorithms(self) -> list[MatmulHeuristicResult]:
        """Up to REQUESTED, in the heuristic's order."""
        results, found = (MatmulHeuristicResult * REQUESTED)(), ctypes.c_int()
        preference, limit = self.lt.matmul_preference_create(), ctypes.c_uint64(WORKSPACE_BYTES)
        attribute = MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES
        self.lt.matmul_preference_set_attribute(preference, attribute, ctypes.addressof(limit), ctypes.sizeof(limit))
        addresses = ctypes.addressof(results), ctypes.addressof(found)
        self.lt.matmul_algo_get_heuristic(
            self.handle, self.descriptor, *self.layouts, preference, REQUESTED, *addresses
        )
        self.lt.matmul_preference_destroy(preference)
        usable = [result for result in results[: found.value] if not result.state]
        if not usable:
            raise RuntimeError("the heuristic names no algorithm")
        return usable

    def run(self, result: MatmulHeuristicResult) -> None:
        """Multiply on the device's stream."""
        b, a, c, d = self.layouts
        out = self.gpu.address(self.out)
        self.lt.matmul(
            *(self.handle, self.descriptor, ctypes.addressof(self.one)),
            *(self.gpu.address(self.b), b, self.gpu.address(self.a), a, ctypes.addressof(self.zero)),
            *(out, c, out, d, ctypes.addressof(result.algo)),
            *(self.gpu.address(self.workspace), WORKSPACE_BYTES, self.gpu.pointer),
        )

    def error(self, result: MatmulHeuristicResult) -> float:
        """The relative error of this algorithm, from an output that was all NaN."""
        self.gpu.fill(self.out, 0xFF)
        self.run(result)
        out = self.gpu.host(self.out)
        out = (from_bf16(out) if self.short_out else out).reshape(self.form.m, self.form.n)
        return float(np.linalg.norm(out - self.expected) / np.linalg.norm(self.expected))

    def repeated(self, result: MatmulHeuristicResult) -> Work:
        def work() -> None:
            for _ in range(REPEATS):
                self.run(result)

        return self.gpu.capture(work)

    def close(self) -> None:
        for layout in self.layouts:
            self.lt.matrix_layout_destroy(layout)
        self.lt.matmul_desc_destroy(self.descriptor)


def best_and_first(notes: Notebook, multiplication: Multiplication, name: str) -> None:
    """Each in µs, in a graph of REPEATS, the gap between two nodes included; operands come from the L2 cache."""
    gpu, allowed = multiplication.gpu, multiplication.kind.allowed
    usable = []
    wrong = []
    for number, result in enumerate(multiplication.algorithms()):
        error = multiplication.error(result)
        if not error <= allowed:
            wrong.append(f"algorithm {number} has a relative error of {error:.1e}")
        work = multiplication.repeated(result)
        usable.append((float(np.median(gpu.times(work, REPEATS, SCREENING, SCREENING_WARM))), number, work, error))
    _, number, work, error = min(usable, key=lambda entry: entry[:2])
    first, best = ([taken * 1e6 for taken in gpu.times(w, REPEATS)] for w in (usable[0][2], work))
    fault = "; ".join(wrong)
    notes.measured(f"{name}: first", "µs", first, fault, f"relative error {usable[0][3]:.1e}")
    notes.measured(f"{name}: best", "µs", best, fault, f"{number + 1} of {len(usable)}, relative error {error:.1e}")


SPECIAL = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1.5, -1.5, 1e-40, -1e-40], np.float32)
WIDTH = 128  # of the epilogues' products; the mask's leading dimension, in bits


def shown(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in values)


class Epilogue:
    """z = x wᵀ + bias in float32, all WIDTH by WIDTH, with an epilogue. x is 1 in its first column and 0 elsewhere, so
    that row 0 of z is the first column of w, plus the bias."""

    def __init__(self, gpu: Gpu, lt: Any, handle: int, workspace: Any, epilogue: int, mask: np.ndarray) -> None:
        form = Form("epilogue", WIDTH, WIDTH, WIDTH, transpose_b=True)
        self.gpu, self.product = gpu, Multiplication(gpu, lt, handle, form, KINDS["float32"], workspace)
        self.bias = gpu.array(np.zeros(WIDTH, np.float32))
        self.mask = gpu.array(np.ascontiguousarray(mask))
        self.product.set(MatmulDescAttribute.EPILOGUE, ctypes.c_uint32(epilogue))
        if epilogue & BIAS:
            self.product.set(MatmulDescAttribute.BIAS_POINTER, ctypes.c_void_p(gpu.address(self.bias)))
        if epilogue & AUX:
            self.product.set(AUX_POINTER, ctypes.c_void_p(gpu.address(self.mask)))
            self.product.set(AUX_LD, ctypes.c_int64(WIDTH))

    def __call__(self, column: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row 0 of the result, and of the mask as bits, for a first column of w and a bias."""
        x, w = np.zeros((2, WIDTH, WIDTH), np.float32)
        x[:, 0], w[:, 0] = 1, padded(column)
        self.product.a, self.product.b = self.gpu.array(x), self.gpu.array(w)
        self.gpu.copy(self.bias, self.gpu.array(padded(bias)))
        self.gpu.fill(self.product.out, 0xFF)
        self.product.run(self.product.algorithms()[0])
        out = self.gpu.host(self.product.out).reshape(WIDTH, WIDTH)[0]
        bits = np.unpackbits(self.gpu.host(self.mask), bitorder="little").reshape(WIDTH, WIDTH)[0]
        return out[: column.size], bits[: column.size]


def padded(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.zeros(WIDTH - values.size, np.float32)])


def epilogues(notes: Notebook, make: Callable[[int, np.ndarray], Epilogue]) -> None:
    """What ReLU makes of special values, beside PyTorch's."""
    import torch

    none = np.zeros_like(SPECIAL)
    empty = np.zeros((WIDTH, WIDTH // 8), np.uint8)
    alternating = np.full((WIDTH, WIDTH // 8), 0b01010101, np.uint8)
    notes.found("z", shown(SPECIAL))
    relu = torch.relu(torch.from_numpy(SPECIAL)).numpy()
    notes.found("relu(z) by PyTorch", shown(relu))
    leaf = torch.from_numpy(SPECIAL.copy()).requires_grad_()
    torch.relu(leaf).sum().backward()
    assert leaf.grad is not None
    notes.found("relu'(z) by PyTorch", shown(leaf.grad.numpy()))

    def forward(name: str, epilogue: int, place: str) -> None:
        out, bits = make(epilogue, empty)(*((SPECIAL, none) if place == "product" else (none, SPECIAL)))
        notes.found(name, shown(out) + (f"; mask {' '.join(map(str, bits))}" if epilogue & AUX else ""))

    for name, epilogue in (("RELU_BIAS", RELU | BIAS), ("RELU_AUX", RELU | AUX), ("RELU_AUX_BIAS", RELU | AUX | BIAS)):
        for place in ("product", "bias"):
            if place == "bias" and not epilogue & BIAS:
                continue

            notes.attempt(f"{name}, z from the {place}", forward, f"{name}, z from the {place}", epilogue, place)

    def gradient() -> None:
        out, _ = make(DRELU, alternating)(np.repeat(SPECIAL, 2), np.repeat(none, 2))
        notes.found("DRELU of z where the mask is 1", shown(out[::2]))
        notes.found("DRELU of z where the mask is 0", shown(out[1::2]))

    notes.attempt("DRELU", gradient)


def explore(notes: Notebook, gpu: Gpu | None = None, lt: Any = None) -> None:
    gpu = gpu or Gpu()
    lt = lt or library()
    handle = lt.create()
    workspace = gpu.empty(WORKSPACE_BYTES // 4)
    notes.attempt("epilogues", epilogues, notes, partial(Epilogue, gpu, lt, handle, workspace))

    def attempt(form: Form, kind: str) -> None:
        multiplication = Multiplication(gpu, lt, handle, form, KINDS[kind], workspace)
        best_and_first(notes, multiplication, f"{kind}, {form.name}")
        multiplication.close()

    for kind in KINDS:
        for form in forms():
            notes.attempt(f"{kind}, {form.name}", attempt, form, kind)
