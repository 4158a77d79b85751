"""The bodies fit a GPU: they compile to PTX, and run as SIMT programs on the simulator, without a device."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusedmlp.backends.cuda.backend import SHAPES, SHARED_OF_THE_INTERPRETER
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
FLOAT64 = ("run", "forward", "one.forward", "one.update", "one.total", "loss")
# float64 only where registers, being two for each number, may run out.
KERNELS = [(name, of) for name, of in KERNELS if of.dtype == np.float32 or name in FLOAT64]

STATIC = 48 << 10  # bytes of shared memory that a block has unasked


@pytest.mark.timeout(600)
@pytest.mark.parametrize("entry, kind", KERNELS, ids=lambda given: str(given))
def test_kernel(entry, kind):
    """Assembled for every architecture: no spills, shared memory within what a block has, and no float64 in float32
    but in the sum of losses."""
    code, found = ptxas.assembled_for(entry, kind)
    for architecture, usage in found.items():
        assert usage.spills == usage.saved == 0, f"{entry} spills on {architecture}: {usage}"
    assert ptxas.shared_bytes(code) <= (SHARED_OF_THE_INTERPRETER if entry == "run" else STATIC)
    if kind.dtype == np.float32:
        doubles = {re.sub(r"^\s*(@\S+\s+)?", "", line).split()[0] for line in code.splitlines() if ".f64" in line}
        allowed = SUM_OF_LOSSES if entry in SUMS else set()
        assert doubles <= allowed, f"{entry} computes in float64: {sorted(doubles - allowed)}"


def test_the_interpreter_from_code_for_hopper():
    """PTX made for sm_90, as a device of that kind gets it, and not only PTX for sm_80 that sm_90 takes."""
    for entry, kind in KERNELS:
        if entry == "run":
            usage = ptxas.assembled(ptx(entry, kind, (9, 0)), "sm_90")
            assert usage.spills == usage.saved == 0, usage


@pytest.mark.timeout(300)
def test_model_on_the_stand_in():
    """Training, validation, gradients, a step by hand, and a loss that is not finite, as on python."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "cuda/on_the_stand_in.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)[1]) >= 40 and "skipped" not in done.stdout
