"""What Numba made of the bodies, read from the LLVM of every compiled entry: float32 is computed in float32, nothing
raises, and nothing allocates.

In Numba `max(z, 0.0)`, `x * 2` and `x * 2.0` on float32 compute in float64 without a word. Such a result is compared,
or comes back to float32 by a truncation: both are instructions that a float32 entry must not have. The one exception
is the loss's running sum, `total_loss`, which is widened and added, and stays float64.
"""

import re

import numpy as np
import pytest
from numba import njit, types
from numba.core.errors import TypingError

import processes
from fusedmlp.backends.cpu import compiling, machine

OTHERS = ("forward", "backward", "apply", "apply_backward", "loss", "step")
# Those that take the loss's running sum in float64; a single loss kernel's result is that sum, rounded once.
SUMS = {"run": {"fadd", "fpext"}, "loss": {"fadd", "fpext", "fptrunc"}}

DOUBLE = re.compile(r"\b(fadd|fsub|fmul|fdiv|frem|fneg|fcmp|fptrunc|fpext|sitofp|uitofp|fptosi|call)\b[^\n]*\bdouble\b")
RAISES = ("picklebuf", "numba_do_raise", "PyErr_")
ALLOCATES = ("NRT_MemInfo_alloc", "NRT_Allocate", "NRT_MemInfo_new")


def functions(text):
    """The functions defined in some LLVM, by name, without those through which Python calls in."""
    parts = re.split(r"^define ", text, flags=re.MULTILINE)[1:]
    found = {re.search(r'@"?([^"(]+)', part)[1]: part for part in parts}
    assert any("cpython" in name for name in found)
    wrappers = re.compile(r"_ZN7cpython|cfunc\.|NRT_|nrt_")
    return {name: part.split("\n}")[0] for name, part in found.items() if not wrappers.match(name)}


def doubles(text):
    """The instructions on float64 in some functions, by their opcodes."""
    return {match[1] for body in functions(text).values() for match in DOUBLE.finditer(body)}


def mentions(text, names):
    found = "\n".join(functions(text).values())
    return [name for name in names if name in found]


@pytest.mark.slow
@pytest.mark.parametrize("bodies", [("run",), OTHERS], ids=["run", "others"])
def test_entries(bodies, tmp_path):
    """All that is asked of an entry in one test: to compile them takes half a minute."""
    script = processes.HERE / "llvm.py"
    changes = {"NUMBA_CACHE_DIR": tmp_path / "compiled", "NUMBA_OPT": None}
    processes.finish(processes.start(script, tmp_path, "float32", *bodies, **changes), 280)
    wrong = []
    for body in bodies:
        text = (tmp_path / f"{body}.float32.ll").read_text()
        if doubles(text) != SUMS.get(body, set()):
            wrong.append(f"{body} computes in float64: {doubles(text)}")
        # A worker that raised would leave the others at the barrier. The text has not even the exception to raise.
        if mentions(text, RAISES) or "picklebuf" in text:
            wrong.append(f"{body} raises")
        if mentions(text, ALLOCATES):
            wrong.append(f"{body} allocates: {mentions(text, ALLOCATES)}")
        modes = "\n".join(functions(text).values()).count("call void @llvm.x86.sse.ldmxcsr")
        if machine.X86 and modes != 2:
            wrong.append(f"{body} sets the mode of subnormals {modes} times, not once and back")
    assert wrong == []


# LLVM brings `x * 2.0` back to float32 by itself, 2.0 being a float32 as well; nothing mends these.
FAULTS = {
    "product": (lambda x: x * 0.1, {"fmul", "fpext", "fptrunc"}),
    "sum": (lambda x: x + np.float64(0.1), {"fadd", "fpext", "fptrunc"}),
    "integer": (lambda x: x * x + 2 * x + 1, {"fmul", "fpext", "fptrunc"}),
    "comparison": (lambda x: np.float32(1) if x > 0.1 else np.float32(0), {"fpext", "fcmp"}),
}


def compiled(function, **options):
    """The LLVM of a loop over `function`."""
    function = njit(**compiling.CALLED | options)(function)

    def body(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    array = types.Array(types.float32, 1, "C")
    dispatcher = njit(**compiling.ENTRY | options)(body)
    dispatcher.compile((array, array))
    (text,) = dispatcher.inspect_llvm().values()
    return text


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_float64_is_seen(fault):
    function, expected = FAULTS[fault]
    assert expected <= doubles(compiled(function))
    assert not doubles(compiled(lambda x: x * np.float32(2)))


def test_planted_error_is_seen():
    """The division that Numba checks unless it is told otherwise."""
    assert mentions(compiled(lambda x: np.float32(1) / x, error_model="python"), RAISES)
    assert not mentions(compiled(lambda x: np.float32(1) / x), RAISES)


def test_planted_allocation_is_seen():
    """Where Numba allows it, which it is told not to."""
    assert mentions(compiled(lambda x: np.full(3, x)[1:].sum(), _nrt=True), ALLOCATES)
    with pytest.raises(TypingError):
        compiled(lambda x: np.full(3, x)[1:].sum())
