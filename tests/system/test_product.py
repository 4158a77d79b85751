"""The processor's own product: exact on integers in every form and at every edge, the same as BLAS beside rounding, in
the vectors of every kind of processor; and a loop that does nothing but multiply and add."""

import re

import llvmlite.binding as llvm
import numpy as np
import products
import pytest
from llvmlite import ir
from processors import NARROWER, run_as

from fusedmlp.backends.cpu.backend import CpuBackend
from fusedmlp.backends.cpu.product import RegisterTile, _multiply
from fusedmlp.backends.cpu.vectors import Emitter

# By kind of processor: LLVM's triple, name and features, its register tile, and what may stand in its inner loop: loads
# of vectors, of a number that is spread, products and sums of vectors, and the loop's own counting.
MOVES = r"v?mov(u|a)p[sd]|v?mov(ss|sd|ddup)|v?broadcasts[sd]|v?shufp[sd]|v?unpcklpd|v?movlhps|v?movhlps"
COUNTING = r"(lea|add|sub|dec|inc|cmp|test|mov)[ql]|j\w+"
X86 = rf"({MOVES}|{COUNTING}|v?(mul|add)p[sd]|vfmadd\d+p[sd])"
ARM = r"(ld[rp]|ld1r?|fmla|dup|add|subs?|cmp|mov|b(\.\w+)?|cbn?z)"
TARGETS = {
    "AVX-512": ("x86_64-linux-gnu", "skylake-avx512", "", RegisterTile(6, 4, 512, masks=True), X86),
    "AVX2": ("x86_64-linux-gnu", "haswell", "", RegisterTile(6, 2, 256), X86),
    "128 bits": ("x86_64-linux-gnu", "x86-64", "", RegisterTile(4, 2, 128), X86),
    "NEON": ("aarch64-linux-gnu", "cortex-a72", "+neon", RegisterTile(6, 3, 128), ARM),
}
STACK = r"%[re]?[sb]p\b|\[sp|\[x29"


def assembly(target, bitwidth):
    """The highest form of a register tile as assembly for a processor that need not be this one."""
    triple, name, features, tile, _ = TARGETS[target]
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 11 + [ir.IntType(1)])
    function = ir.Function(module, kind, "multiply")
    builder = ir.IRBuilder(function.append_basic_block())
    _multiply(Emitter(builder, bitwidth, tile.lanes(bitwidth)), tile, tile.rows, tile.vectors, list(function.args))
    builder.ret_void()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(parsed, passes)
    return machine.emit_assembly(parsed)


def inner_loop(text):
    """The instructions of the block that multiplies and jumps back to its own label."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    blocks = re.split(r"(?m)^(\.?L\w+):$", "\n".join(line for line in lines if line))
    loops = [
        body[: body.index(label) + len(label)].split("\n")[1:]
        for label, body in zip(blocks[1::2], blocks[2::2], strict=True)
        if label in body and re.search(r"fmadd|fmla|mulp", body)
    ]
    (loop,) = loops
    return loop


@pytest.mark.parametrize("bitwidth", [32, 64])
@pytest.mark.parametrize("target", TARGETS)
def test_inner_loop(target, bitwidth):
    """No store, no call, no arithmetic of single numbers, no access to the stack; every sum is in it once."""
    *_, tile, allowed = TARGETS[target]
    loop = inner_loop(assembly(target, bitwidth))
    for line in loop:
        assert re.fullmatch(allowed, line.split()[0]), line
        assert not re.search(STACK, line), line
        assert not re.match(r"v?mov\S*\s+%[xyz]mm\d+, .*\(", line), f"a store: {line}"
    multiplying = [line for line in loop if re.match(r"vfmadd|fmla|mulp", line)]
    assert len(multiplying) == tile.rows * tile.vectors


def test_exact():
    """In this process, on the vectors of this processor."""
    products.main()


@NARROWER
def test_exact_on_narrower_vectors(processor, tmp_path):
    run_as(processor, "products.py", tmp_path)


def test_blas_is_a_second_oracle(rng):
    """A layer forward and backward by both: they differ by rounding alone."""
    ours, blas = CpuBackend("own"), CpuBackend("blas")
    x, weight, dy = (rng.normal(size=shape).astype(np.float32) for shape in ((70, 530), (61, 530), (70, 61)))
    results = []
    for backend in (ours, blas):
        y, backprop = backend.dense(x, weight, None, "tanh")
        dx, dweight, _ = backprop(dy)
        results.append((y, dx, dweight))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert not np.array_equal(one, other) or one.shape == (), "BLAS adds up in another order somewhere"


def test_unknown_products():
    with pytest.raises(ValueError, match="FUSEDMLP_CPU_PRODUCTS: expected one of own, blas, got 'mkl'"):
        CpuBackend("mkl")
