"""The bodies fit a GPU: they compile to PTX that NVIDIA's assembler takes, within budgets, and run on the simulator."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusedmlp.backends.cuda.backend import SHAPES
from fusedmlp.backends.cuda.compile import ptx
from fusedmlp.benchmarks import ptxas

TESTS = Path(__file__).parents[1]

# Where float32 kernels may work in float64: the sum of the rows' losses (docs/numerics.md). Everything there is a
# conversion, an addition, or a move, load and store of the sum.
SUM_OF_LOSSES = {"cvt.f64.f32", "cvt.rn.f32.f64", "add.f64", "add.rn.f64", "mov.f64", ".reg"}
PLACES = ("global.", "shared.", "local.", "param.", "")
SUM_OF_LOSSES |= {f"{way}.{place}f64" for way in ("ld", "st") for place in PLACES}
SUMS = {"loss", "run", "one.total"}

KERNELS = [(name, of) for dtype in SHAPES for name, of in ptxas.kernels(dtype)]
# float64 only where registers, being two for each number, may run out: "the rest" is far from that.
*NEAR, REST = ptxas.BUDGETS
ALL = KERNELS
KERNELS = [(name, of) for name, of in ALL if of.dtype == np.float32 or name not in REST.entries]


def check(entry, kind, architecture, usage):
    """No spills, and registers within the budget."""
    assert usage.spills == usage.saved == 0, f"{entry} spills on {architecture}: {usage}"
    budget = ptxas.budget_of(entry).registers[str(kind.dtype)]
    assert usage.registers <= budget, f"{entry} takes {usage.registers} registers on {architecture}, of {budget}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("entry, kind", KERNELS, ids=lambda given: str(given))
def test_kernel(entry, kind):
    """Assembled for every architecture: no spills, registers and shared memory within the budget, and no float64 in
    float32 but in the sum of losses."""
    code, found = ptxas.assembled_for(entry, kind)
    for architecture, usage in found.items():
        check(entry, kind, architecture, usage)
    assert ptxas.shared_bytes(code) <= ptxas.budget_of(entry).shared
    if kind.dtype == np.float32:
        doubles = {re.sub(r"^\s*(@\S+\s+)?", "", line).split()[0] for line in code.splitlines() if ".f64" in line}
        allowed = SUM_OF_LOSSES if entry in SUMS else set()
        assert doubles <= allowed, f"{entry} computes in float64: {sorted(doubles - allowed)}"


@pytest.mark.parametrize("dtype", SHAPES, ids=str)
def test_the_interpreter_from_code_for_hopper(dtype):
    """PTX made for sm_90, as a device of that kind gets it, and not only PTX for sm_80 that sm_90 takes; with the rules
    that take the most."""
    *_, kind = (kind for entry, kind in KERNELS if entry == "run" and kind.dtype == dtype)
    assert kind.rules == ptxas.TRAININGS[-1]
    check("run", kind, "sm_90", ptxas.assembled(ptx("run", kind, (9, 0)), "sm_90"))


def rows_of(page):
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if line]


def test_the_page_has_the_budgets_and_every_kernel():
    """Its numbers are of one assembler, and another's may differ; each is within its budget, and the largest of a
    budget is near it."""
    _, page, _ = ptxas.parts_of(ptxas.PAGE.read_text(encoding="utf-8"))
    budgets, kernels = page.split("| kernel |")
    assert budgets.strip().splitlines() == ptxas.budgets()
    _, _, *rows = rows_of(kernels)
    assert [row[:4] for row in rows] == [ptxas.described(name, of) for name, of in ALL]
    largest = {}
    for name, _, dtype, _, registers, shared, spills in rows:
        budget = ptxas.budget_of(name)
        assert spills == "0" and int(shared) <= budget.shared
        taken = max(map(int, registers.split(",")))
        largest[budget.what, dtype] = max(taken, largest.get((budget.what, dtype), 0))
    for budget, dtype in itertools.product(ptxas.BUDGETS, map(str, SHAPES)):
        taken = largest[budget.what, dtype]
        assert 0.85 * budget.registers[dtype] <= taken <= budget.registers[dtype], (budget.what, dtype, taken)


def test_every_entry_has_one_budget():
    for name, _ in ALL:
        assert ptxas.budget_of(name)


FAULTS = {
    "a spill": (ptxas.Usage(100, 4, 0), "spills"),
    "a called function's": (ptxas.Usage(100, 0, 32), "spills"),
    "registers": (ptxas.Usage(249, 0, 0), "takes 249 registers on sm_80, of 248"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kernel_beyond_its_budget_fails(fault):
    usage, words = FAULTS[fault]
    entry, kind = next((name, of) for name, of in ALL if name == "forward")
    with pytest.raises(AssertionError, match=words):
        check(entry, kind, "sm_80", usage)


PTX = ".version {}\n.target sm_80\n.address_size 64\n.visible .entry nothing(){{ ret; }}\n"


@pytest.mark.parametrize("version, toolkit", [("8.8", 12), ("9.2", 13)])
def test_without_an_assembler_the_error_names_the_remedy(monkeypatch, version, toolkit):
    """That of the compiler's own version."""
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="numba-cuda has no wheels for macOS")
    monkeypatch.setattr(pathfinder, "find_nvidia_binary_utility", lambda name: None)
    with pytest.raises(FileNotFoundError, match=rf"pip install 'cuda-toolkit\[nvcc\]=={toolkit}\.\*'"):
        ptxas.assembled(PTX.format(version), "sm_80")


def test_an_assembler_that_is_too_old():
    """It says so of a version that is not there yet."""
    with pytest.raises(RuntimeError, match=r"older than the compiler; pip install 'cuda-toolkit\[nvcc\]==94\.\*'"):
        ptxas.assembled(PTX.format("90.0"), "sm_80")
    assert ptxas.assembled(PTX.format("8.0"), "sm_80").spills == 0


def test_docs_outside_a_checkout(monkeypatch, tmp_path, capsys):
    """Is said before the work."""
    monkeypatch.setattr(ptxas, "PAGE", tmp_path / "docs" / "performance.md")
    monkeypatch.setattr(ptxas, "table", lambda: pytest.fail("kernels were compiled"))
    monkeypatch.setattr(sys, "argv", ["ptxas", "--docs"])
    assert ptxas.main() == 1
    assert "performance.md is not there; --docs is for a checkout" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_model_on_the_stand_in():
    """Training, validation, gradients, a step by hand, and a loss that is not finite, as on python."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "cuda/on_the_stand_in.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)[1]) >= 40 and "skipped" not in done.stdout
