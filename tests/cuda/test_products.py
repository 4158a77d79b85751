"""Products of matrices by rows through cuBLASLt, which reads by columns; without a device, a stand-in for the library
multiplies on NumPy (tests/fake_cublaslt.py)."""

import ctypes
import gc
import itertools
import os
import re
import sys
from types import ModuleType

import numpy as np
import pytest

from fake_cublaslt import ALIGNMENTS, EPILOGUE, MAX_WORKSPACE_BYTES, TRANSA, TRANSB, FakeCublasLt, FakeError
from fusedmlp.backends.cuda import cublaslt
from fusedmlp.backends.cuda.cublaslt import PARAMETERS, CublasLt, MatmulAlgo, MatmulHeuristicResult
from fusedmlp.backends.cuda.driver import absence
from fusedmlp.backends.cuda.products import Product, Products
from fusedmlp.backends.install import for_cuda
from tolerance import assert_close, summation

# (m, n, k): ones, primes, and each extent the largest once.
SHAPES = [(1, 1, 1), (3, 5, 7), (13, 4, 6), (6, 17, 2), (1, 8, 5), (8, 1, 5), (8, 5, 1)]
FORMS = list(itertools.product([False, True], repeat=2))
PADDING = 3  # elements between rows, to be left as they are
ALIGNMENT = 64
REHEARSED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")  # where a device is stood in for


def padded(rng, rows, columns, padding, dtype):
    """A matrix whose rows are further apart than they are long, at an address aligned to 64 bytes; padding is NaN."""
    ld = columns + padding
    flat = np.full(rows * ld + ALIGNMENT, np.nan, dtype)
    start = -flat.ctypes.data % ALIGNMENT // flat.itemsize
    matrix = flat[start : start + rows * ld].reshape(rows, ld)
    matrix[:, :columns] = rng.normal(size=(rows, columns))
    return matrix


def operands(rng, m, n, k, transpose_a, transpose_b, padding, dtype):
    """a, b and out with their padding, and the view of each without."""
    shapes = ((k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n), (m, n))
    whole = [padded(rng, *shape, padding, dtype) for shape in shapes]
    return whole, [matrix[:, : shape[1]] for matrix, shape in zip(whole, shapes, strict=True)]


def on_host(products, planned, whole, bias):
    products(planned, *(matrix.ctypes.data for matrix in whole), 0, 0 if bias is None else bias.ctypes.data)


def check(
    products, rng, shape, form, *, dtype="float32", padding=0, accumulate=False, with_bias=False, precision="",
    run=on_host,
):  # fmt: skip
    """One product against NumPy in float64."""
    (m, n, k), (transpose_a, transpose_b) = shape, form
    whole, (a, b, out) = operands(rng, m, n, k, *form, padding, dtype)
    (bias,) = padded(rng, 1, n, 0, dtype)
    exact_a, exact_b = (
        (matrix.T if transposed else matrix).astype(np.float64)
        for matrix, transposed in ((a, transpose_a), (b, transpose_b))
    )
    if not accumulate:
        out[...] = np.nan  # what is overwritten must not be read
    more = [array.astype(np.float64) for array, added in ((out, accumulate), (bias, with_bias)) if added]
    expected = exact_a @ exact_b + sum(more)
    magnitude = abs(exact_a) @ abs(exact_b) + sum(map(abs, more))
    lda, ldb, ldout = (matrix.shape[1] for matrix in whole)
    product = Product(
        m=m, n=n, k=k, lda=lda, ldb=ldb, ldout=ldout, transpose_a=transpose_a, transpose_b=transpose_b, dtype=dtype,
        precision=precision, accumulate=accumulate, bias=with_bias, alignment=ALIGNMENT,
    )  # fmt: skip
    run(products, products.plan(product), whole, bias if with_bias else None)
    tolerance = summation(dtype, k + len(more), magnitude)
    if precision in ("tf32", "bf16"):  # each operand is rounded to 11 or 8 bits
        tolerance += 2 * 2.0 ** {"tf32": -11, "bf16": -8}[precision] * magnitude
    assert_close(out, expected, tolerance=tolerance, dtype=dtype)
    assert np.isnan(whole[2][:, n:]).all(), "padding was written"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "".join("NT"[flag] for flag in form))
@pytest.mark.parametrize("padding", [0, PADDING])
def test_against_numpy(rng, dtype, shape, form, padding):
    for accumulate, with_bias in FORMS:
        check(
            Products(FakeCublasLt(), 0), rng, shape, form, dtype=dtype.name, padding=padding, accumulate=accumulate,
            with_bias=with_bias,
        )  # fmt: skip


@pytest.mark.parametrize("attribute", [TRANSA, TRANSB, EPILOGUE])
def test_the_comparison_can_fail(rng, attribute):
    """A library that does not hear of one attribute, and square matrices, which always fit together."""

    class Deaf(FakeCublasLt):
        def matmul_desc_set_attribute(self, matmul_desc, attr, buf, size_in_bytes):
            if attr != attribute:
                super().matmul_desc_set_attribute(matmul_desc, attr, buf, size_in_bytes)

    with pytest.raises(AssertionError, match="are off"):
        check(Products(Deaf(), 0), rng, (5, 5, 5), (True, True), with_bias=True)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precision(rng, precision):
    """Within the bound of the shorter format, and beyond that of float32."""
    check(Products(FakeCublasLt(), 0), rng, (13, 4, 60), (False, True), precision=precision)
    library, a, b, out = FakeCublasLt(), *(padded(rng, 8, 8, 0, "float32") for _ in range(3))
    products = Products(library, 0)
    found = {}
    for name in ("float32", precision):
        planned = products.plan(Product(m=8, n=8, k=8, lda=8, ldb=8, ldout=8, precision=name))
        products(planned, a.ctypes.data, b.ctypes.data, out.ctypes.data, 0)
        found[name] = out.copy()
    error = abs(found[precision] - found["float32"]).max()
    assert error > 16 * np.finfo(np.float32).eps * abs(found["float32"]).max()


def test_float32_takes_no_rounded_operands():
    """The heuristic may only name algorithms that read float32 as float32."""
    library = FakeCublasLt()
    products = Products(library, 0)
    for changes in ({}, {"precision": "tf32"}, {"precision": "bf16"}, {"dtype": "float64"}):
        products.plan(square(**changes))
    rounded = 0x1 << 16 | 0x2 << 16 | 0x4 << 16  # CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F, 16BF, TF32
    masks = [wishes.get(12) for wishes in library.asked]  # CUBLASLT_MATMUL_PREF_IMPL_MASK
    assert masks == [2**64 - 1 - rounded, None, None, None]


def square(size=4, **changes):
    return Product(m=size, n=size, k=size, lda=size, ldb=size, ldout=size, **changes)


def test_planned_once(rng):
    """The heuristic is asked once a product, and a call is one call of the library, or two where the bias moved."""
    library = FakeCublasLt()
    products = Products(library, 0)
    assert not library.calls, "the handle needs a device, which a plan needs anyway"
    planned = products.plan(square(bias=True, alignment=16))
    assert products.plan(square(bias=True, alignment=16, precision="float32")) is planned
    assert products.plan(square(alignment=4)) is products.plan(square())
    assert library.calls["matmul_algo_get_heuristic"] == 2 and library.calls["create"] == 1
    arrays = [padded(rng, 4, 4, 0, "float32") for _ in range(5)]
    a, b, out, bias, other = (array.ctypes.data for array in arrays)
    for where, moved in ((bias, True), (bias, False), (other, True), (other, False)):
        library.calls.clear()
        products(planned, a, b, out, 0, where)
        assert library.calls == {"matmul": 1} | ({"matmul_desc_set_attribute": 1} if moved else {})


def test_bias_moves(rng):
    """A plan takes another bias with each call."""
    products = Products(FakeCublasLt(), 0)
    planned = products.plan(square(bias=True, alignment=16))
    zero, out, *biases = (padded(rng, 4, 4, 0, "float32") for _ in range(4))
    zero[...] = 0
    for bias in biases:
        products(planned, zero.ctypes.data, zero.ctypes.data, out.ctypes.data, 0, bias.ctypes.data)
        np.testing.assert_array_equal(out, np.tile(bias[0], (4, 1)))


def test_algorithm_given_back(rng):
    """It is checked, not chosen anew, and multiplies."""
    first, library = Products(FakeCublasLt(64, first=1), 64), FakeCublasLt(64)
    algorithm = first.plan(square()).algorithm
    assert len(algorithm) == 64
    products = Products(library, 64)
    planned = products.plan(square(), algorithm)
    assert planned.algorithm == algorithm and products.plan(square(), algorithm) is planned
    assert library.calls["matmul_algo_get_heuristic"] == 0 and library.calls["matmul_algo_check"] == 1
    a, b, out = (padded(rng, 4, 4, 0, "float32") for _ in range(3))
    products(planned, a.ctypes.data, b.ctypes.data, out.ctypes.data, 0, workspace=256)
    np.testing.assert_allclose(out, a @ b, rtol=1e-5)
    assert library.ran == {1: 1}, "the heuristic would have named 0"

    with pytest.raises(RuntimeError, match=r"matmul_algo_check of \(4, 4\) = .*: CUBLAS_STATUS_INVALID_VALUE"):
        products.plan(square(), bytes(64))
    with pytest.raises(ValueError, match=r"expected 64 bytes, got 3, for \(4, 4\) = "):
        products.plan(square(), b"abc")
    with pytest.raises(RuntimeError, match=r"takes 64 bytes of workspace and there are 32, for \(4, 4\) = "):
        Products(FakeCublasLt(64), 32).plan(square(), algorithm)


def test_everything_is_destroyed():
    """With the products; and what a failed plan had made, at once."""
    library = FakeCublasLt()
    products = Products(library, 0)
    products.plan(square())
    products.plan(square(5, dtype="float64"))
    assert sorted(type(thing).__name__ for thing in library.objects.values()) == sorted(
        ["str"] + 2 * ["Descriptor", "Layout", "Layout", "Layout"]
    )
    before = dict(library.objects)
    library.workspace_needed = 1
    with pytest.raises(RuntimeError):
        products.plan(square(6))
    assert library.objects == before
    del products
    gc.collect()
    assert library.objects == {}


def test_alignment_promised():
    """Not beyond what the caller promises, nor beyond what a step to the next row keeps, and for the right operand."""
    library = FakeCublasLt()
    products = Products(library, 1 << 20)
    far = {"lda": 64, "ldb": 16, "ldout": 256}
    for changes in ({}, {"alignment": 64}, {"alignment": 4096} | far, {"dtype": "float64"}):
        products.plan(Product(**{"m": 4, "n": 4, "k": 4, "lda": 6, "ldb": 4, "ldout": 5} | changes))
    promised = [[wishes[which] for which in ALIGNMENTS] for wishes in library.asked]
    assert promised == [[4, 4, 4, 4], [16, 8, 4, 4], [64, 256, 256, 256], [8, 8, 8, 8]]
    assert {wishes[MAX_WORKSPACE_BYTES] for wishes in library.asked} == {1 << 20}


WRONG = [
    ({"dtype": "float16"}, "dtype: expected float32 or float64, got 'float16'"),
    ({"precision": "fp8"}, "precision: expected float32 or tf32 or bf16 for float32, got 'fp8'"),
    ({"dtype": "float64", "precision": "tf32"}, "precision: expected float64 for float64, got 'tf32'"),
    ({"m": 0}, "m, n and k: expected at least 1 each, got 0, 3 and 4"),
    ({"lda": 3}, "lda: expected at least 4, the length of a row, got 3"),
    ({"transpose_a": True, "lda": 1}, "lda: expected at least 2, the length of a row, got 1"),
    ({"ldb": 2}, "ldb: expected at least 3, the length of a row, got 2"),
    ({"transpose_b": True, "ldb": 3}, "ldb: expected at least 4, the length of a row, got 3"),
    ({"ldout": 2}, "ldout: expected at least 3, the length of a row, got 2"),
    ({"alignment": 2}, "alignment: expected a power of two from 4 on, got 2"),
    ({"alignment": 48}, "alignment: expected a power of two from 4 on, got 48"),
    ({"bias": True}, "bias: expected arrays aligned to 16 bytes, got 4"),
]


@pytest.mark.parametrize("changes, message", WRONG, ids=lambda part: str(part)[:24])
def test_wrong_products(changes, message):
    right = {"m": 2, "n": 3, "k": 4, "lda": 4, "ldb": 3, "ldout": 3}
    Product(**right)
    with pytest.raises(ValueError, match=message):
        Product(**right | changes)


def test_product_of_shapes():
    """Shapes are those in memory; contiguous unless leading dimensions are given."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    plain = {"m": 2, "n": 3, "k": 4}
    assert Product.of((2, 4), (4, 3), dtype=single, precision="float32") == Product(**plain, lda=4, ldb=3, ldout=3)
    assert Product.of((4, 2), (3, 4), dtype=single, precision="tf32", transpose_a=True, transpose_b=True) == Product(
        **plain, lda=2, ldb=4, ldout=3, transpose_a=True, transpose_b=True, precision="tf32"
    )
    rest = {"accumulate": True, "bias": True, "alignment": 16}
    assert Product.of((2, 4), (4, 3), (5, 6, 7), dtype=double, **rest) == Product(
        **plain, lda=5, ldb=6, ldout=7, dtype="float64", precision="float64", **rest
    )
    with pytest.raises(ValueError, match=r"a and b: expected .* that fit, got op\(a\) \(2, 4\) and op\(b\) \(3, 4\)"):
        Product.of((2, 4), (3, 4), dtype=single, precision="float32")


def test_wrong_calls():
    products = Products(FakeCublasLt(), 0)
    plain, biased = products.plan(square()), products.plan(square(bias=True, alignment=16))
    for planned, addresses, message in (
        (plain, (16, 32, 64, 0, 16), r"bias: expected none, got 0x10, for \(4, 4\)"),
        (biased, (16, 32, 64, 0), r"bias: expected an address, got 0x0, for \(4, 4\)"),
        (plain, (16, 34, 64, 0), r"expected multiples of 4, got a 0x10, b 0x22, out 0x40, bias 0x0, for \(4, 4\)"),
        (biased, (16, 32, 64, 0, 8), r"expected multiples of 16, got .*bias 0x8"),
    ):
        with pytest.raises(ValueError, match=message):
            products(planned, *addresses)
    for size, address, message in (
        (1024, 16, r"workspace: expected a multiple of 256, got 0x10, for \(4, 4\)"),
        (1024, 0, "workspace: expected a multiple of 256, got 0x0"),
        (0, 256, "workspace: expected none, got 0x100"),
    ):
        products = Products(FakeCublasLt(), size)
        with pytest.raises(ValueError, match=message):
            products(products.plan(square()), 16, 32, 64, 0, workspace=address)


SHOWN = (
    "(2, 3) += (4, 2)ᵀ @ (4, 3) + bias in float32 by tf32, leading dimensions 2, 3 and 8 of a, b and out, "
    "aligned to 16 bytes"
)


@pytest.mark.parametrize(
    "function",
    [name for name in PARAMETERS if "destroy" not in name and name != "matmul_algo_check"],
)
def test_refusals(function):
    """Whatever the library refuses is named, with its status and the product."""
    flags = dict.fromkeys(("transpose_a", "accumulate", "bias"), True)
    product = Product(m=2, n=3, k=4, lda=2, ldb=3, ldout=8, precision="tf32", alignment=16, **flags)

    def refuse(*arguments):
        raise FakeError("CUBLAS_STATUS_ARCH_MISMATCH")

    library = FakeCublasLt()
    setattr(library, function, refuse)
    products = Products(library, 0)
    message = f"cuBLASLt's {function} of {SHOWN}: CUBLAS_STATUS_ARCH_MISMATCH"
    with pytest.raises(RuntimeError, match=re.escape(message)):
        products(products.plan(product), 16, 16, 16, 0, 16)


def test_no_algorithm():
    with pytest.raises(
        RuntimeError, match=r"no algorithm that needs no more than 64 bytes of workspace, for \(4, 4\) = "
    ):
        Products(FakeCublasLt(workspace_needed=65), 64).plan(square())


# The library by ctypes. Parameters as in cublasLt.h, in the letters of the module struct, N for size_t.
SYMBOLS = {
    "cublasLtCreate": "P",
    "cublasLtDestroy": "P",
    "cublasLtMatmulDescCreate": "Pii",
    "cublasLtMatmulDescDestroy": "P",
    "cublasLtMatmulDescSetAttribute": "PiPN",
    "cublasLtMatrixLayoutCreate": "PiQQq",
    "cublasLtMatrixLayoutDestroy": "P",
    "cublasLtMatmulPreferenceCreate": "P",
    "cublasLtMatmulPreferenceDestroy": "P",
    "cublasLtMatmulPreferenceSetAttribute": "PiPN",
    "cublasLtMatmulAlgoGetHeuristic": "PPPPPPPiPP",
    "cublasLtMatmulAlgoCheck": "PPPPPPPP",
    "cublasLtMatmul": "PPPPPPPPPPPPPPNP",
}
LETTERS = {"P": ctypes.c_void_p, "i": ctypes.c_int, "Q": ctypes.c_uint64, "q": ctypes.c_int64, "N": ctypes.c_size_t}


class FakeFile:
    """libcublasLt as ctypes sees a loaded file: C functions, which note their arguments and pass them on."""

    def __init__(self, library):
        self.noted = []
        self._name = ctypes.create_string_buffer(b"CUBLAS_STATUS_INVALID_VALUE")
        self.cublasLtGetStatusName = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(
            lambda status: ctypes.addressof(self._name) if status == 7 else None
        )
        for symbol, letters in SYMBOLS.items():
            name = re.sub("(?<!^)([A-Z])", r"_\1", symbol.removeprefix("cublasLt")).lower()
            prototype = ctypes.CFUNCTYPE(ctypes.c_int, *(LETTERS[letter] for letter in letters))
            setattr(self, symbol, prototype(self._function(symbol, getattr(library, name))))

    def _function(self, symbol, function):
        def call(*arguments):
            arguments = [argument or 0 for argument in arguments]  # ctypes gives None for a null pointer
            self.noted.append((symbol, *arguments))
            try:
                if symbol.endswith("Create"):
                    ctypes.c_void_p.from_address(arguments[0]).value = function(*arguments[1:])
                else:
                    function(*arguments)
            except FakeError:
                return 7
            return 0

        return call


def test_ctypes_passes_arguments_on():
    """Every one whole, in its place, to the function of its name; a handle comes back."""

    class Anything:
        def __getattr__(self, name):
            return lambda *arguments: 2**47 + 1

    file = FakeFile(Anything())
    library = CublasLt(file)
    assert len(PARAMETERS) == len(SYMBOLS)
    for name, (symbol, letters) in zip(PARAMETERS, SYMBOLS.items(), strict=True):
        creates = symbol.endswith("Create")
        given = [3 + place if letter == "i" else 2**40 + place for place, letter in enumerate(letters[creates:])]
        assert getattr(library, name)(*given) == (2**47 + 1 if creates else None)
        called, *arguments = file.noted[-1]
        assert (called, arguments[creates:]) == (symbol, given)


@pytest.mark.parametrize("form", FORMS)
def test_ctypes_multiplies(rng, form):
    products = Products(CublasLt(FakeFile(FakeCublasLt())), 0)
    check(products, rng, (6, 17, 5), form, padding=PADDING, accumulate=True, with_bias=True)


def test_ctypes_checks_the_status():
    library = CublasLt(FakeFile(FakeCublasLt()))
    with pytest.raises(library.cuBLASLtError, match=r"^CUBLAS_STATUS_INVALID_VALUE \(7\)$"):
        library.matmul_desc_set_attribute(library.matmul_desc_create(68, 0), 3, ctypes.addressof(ctypes.c_int64()), 8)
    with pytest.raises(library.cuBLASLtError, match=r"^CUBLAS_STATUS_INVALID_VALUE \(7\)$"):
        library.destroy(12345)


def test_structures():
    """As a C compiler lays them out: 8 words; those, a size, an int, a float, four ints."""
    assert ctypes.sizeof(MatmulAlgo) == 64 and ctypes.sizeof(MatmulHeuristicResult) == 96
    fields = [getattr(MatmulHeuristicResult, name).offset for name, _ in MatmulHeuristicResult._fields_]
    assert fields == [0, 64, 72, 76, 80]


def test_where_the_library_comes_from(monkeypatch):
    """nvmath-python; else what cuda-pathfinder finds; else the first file that loads; else an error that says so."""
    modules = {name: ModuleType(name) for name in ("nvmath", "nvmath.bindings", "cuda", "cuda.pathfinder")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    nvmaths, found = ModuleType("cublasLt"), type("LoadedDL", (), {"abs_path": "/somewhere/libcublasLt.so.13"})
    nvmaths.get_version = lambda: 131000
    modules["nvmath.bindings"].cublasLt = nvmaths
    modules["cuda.pathfinder"].load_nvidia_dynamic_lib = lambda name: found
    files = {"/somewhere/libcublasLt.so.13", cublaslt.FILES[1]}
    tried = []

    def load(file):
        tried.append(file)
        if file not in files:
            raise OSError(file)
        return FakeFile(FakeCublasLt())

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cublaslt.library() is nvmaths

    def missing(*_):
        raise RuntimeError("not found")

    nvmaths.get_version = missing
    assert isinstance(cublaslt.library(), CublasLt) and tried == ["/somewhere/libcublasLt.so.13"]
    monkeypatch.setitem(sys.modules, "nvmath", None)  # not installed
    modules["cuda.pathfinder"].load_nvidia_dynamic_lib = missing
    tried.clear()
    assert isinstance(cublaslt.library(), CublasLt) and tried == list(cublaslt.FILES[:2])
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    files.clear()
    with pytest.raises(OSError, match=rf"cuBLASLt was not found, .*; {re.escape(for_cuda())}"):
        cublaslt.library()


@pytest.mark.parametrize("form", FORMS)
def test_the_real_library_takes_descriptors(form):
    """cuBLASLt makes and fills descriptors, layouts and preferences without a device; the rest is answered here."""
    try:
        real = CublasLt(cublaslt._shared_library())
    except OSError as error:
        pytest.skip(str(error))
    fake = FakeCublasLt()

    def heuristic(*arguments):
        ctypes.c_int.from_address(arguments[-1]).value = 1

    for name, answer in (("create", fake.create), ("destroy", fake.destroy), ("matmul_algo_get_heuristic", heuristic)):
        setattr(real, name, answer)
    a, b = form
    for changes in ({}, {"precision": "tf32"}, {"precision": "bf16"}, {"dtype": "float64"}):
        Products(real, 1 << 25).plan(square(transpose_a=a, transpose_b=b, bias=True, alignment=16, **changes))
    with pytest.raises(real.cuBLASLtError, match=r"^CUBLAS_STATUS_INVALID_VALUE \(7\)$"):
        real.matmul_desc_set_attribute(real.matmul_desc_create(68, 0), 3, ctypes.addressof(ctypes.c_int64()), 8)


ENUMERATIONS = ("CudaDataType", "ComputeType", "Operation", "Epilogue")
ATTRIBUTES = ("MatmulDescAttribute", "MatmulPreferenceAttribute")


@pytest.mark.parametrize("name", ENUMERATIONS + ATTRIBUTES)
def test_numbers_are_nvmaths(name):
    """And so are the names."""
    nvmath = pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    homes = {"CudaDataType": nvmath, "ComputeType": nvmath.bindings.cublas, "Operation": nvmath.bindings.cublas}
    theirs = getattr(homes.get(name, nvmath.bindings.cublasLt), name)
    for member in getattr(cublaslt, name):
        assert theirs[member.name] == member


def test_parameters_are_nvmaths():
    """nvmath-python says them in the first line of each docstring: `name(type name, ...) -> type`."""
    bindings = pytest.importorskip("nvmath.bindings", reason="nvmath-python is not installed")
    types = {"intptr_t": "P", "int": "i", "size_t": "N", "uint64_t": "Q", "int64_t": "q"}
    for name, parameters in PARAMETERS.items():
        documented = re.match(rf"{name}\((.*)\)", getattr(bindings.cublasLt, name).__doc__)[1]
        theirs = [LETTERS[types[part.split()[0]]] for part in documented.split(", ") if part]
        assert list(parameters) == theirs, name
    assert bindings.cublasLt.matmul_heuristic_result_dtype.itemsize == ctypes.sizeof(MatmulHeuristicResult)
    assert issubclass(bindings.cublasLt.cuBLASLtError, Exception)


@pytest.fixture(params=["library", "ctypes"])
def on_a_device(request):
    """Products on a device, by whatever `library` gives and by ctypes, and a run of them that is a replayed graph."""
    if reason := absence():
        required = "cuda" in os.environ.get("FUSEDMLP_REQUIRE_BACKENDS", "")
        (pytest.fail if required else pytest.skip)(reason)
    if REHEARSED:
        import fake_cupy as cupy
    else:
        import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    workspace = cupy.empty(32 << 20, "uint8")

    def run(products, planned, whole, bias):
        with stream:
            *operands, out, bias = (cupy.asarray(array) for array in (*whole, np.zeros(1) if bias is None else bias))
            rehearsal, addresses = cupy.zeros_like(out), [array.data.ptr for array in operands]
            more = (stream.ptr, bias.data.ptr if planned.product.bias else 0, workspace.data.ptr)
            products(planned, *addresses, rehearsal.data.ptr, *more)
            stream.synchronize()
            stream.begin_capture()
            products(planned, *addresses, out.data.ptr, *more)
            graph = stream.end_capture()
            graph.launch(stream)
            whole[-1][...] = cupy.asnumpy(out)

    if REHEARSED:
        library = FakeCublasLt()
    else:
        library = cublaslt.library() if request.param == "library" else CublasLt(cublaslt._shared_library())
    yield Products(library, workspace.nbytes), run


KINDS = [("float32", "float32"), ("float32", "tf32"), ("float32", "bf16"), ("float64", "float64")]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (67, 129, 101), (512, 128, 784), (64, 10, 128)], ids=str)
@pytest.mark.parametrize("dtype, precision", KINDS)
def test_on_a_device(on_a_device, rng, shape, dtype, precision):
    products, run = on_a_device
    for form, (accumulate, with_bias), padding in itertools.product(FORMS, FORMS, (0, PADDING)):
        check(
            products, rng, shape, form, dtype=dtype, padding=padding, accumulate=accumulate, with_bias=with_bias,
            precision=precision, run=run,
        )  # fmt: skip
