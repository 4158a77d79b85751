"""The bodies fit a GPU: they compile to PTX, and run as SIMT programs on the simulator, without a device."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusedmlp.backends import entries

TESTS = Path(__file__).parents[1]

# Where float32 kernels may work in float64: the running sum of the rows' losses (docs/numerics.md). Everything there
# is a conversion, an addition, or the move and store of the sum.
SUM_OF_LOSSES = {"cvt.f64.f32", "cvt.rn.f32.f64", "add.f64", "mov.f64", "st.global.f64", ".reg"}
SUMS = {"loss", "run"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("entry", entries.NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ptx(entry, dtype):
    """Both architectures in one test: the second one costs no more than its code generation."""
    from fusedmlp.backends.cuda.compile import ptx

    for capability in ((8, 0), (9, 0)):
        code = ptx(entry, np.dtype(dtype), capability)
        assert f".target sm_{capability[0]}{capability[1]}" in code
        assert re.search(r"\.visible \.entry", code)
        if dtype == "float32":
            doubles = {line.split()[0] for line in code.splitlines() if ".f64" in line}
            allowed = SUM_OF_LOSSES if entry in SUMS else set()
            assert doubles <= allowed, f"{entry} computes in float64: {sorted(doubles - allowed)}"


@pytest.mark.timeout(300)
def test_model_on_the_stand_in():
    """Training, validation, gradients, a step by hand, and a loss that is not finite, as on python."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "cuda/on_the_stand_in.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
