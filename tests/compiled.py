"""`python compiled.py`: compiles the cpu backend's entries that the tests use, and leaves them on disk. `make test`
begins with it: else each of pytest's processes compiles them all, and those with BLAS when nothing runs beside."""

import os
import subprocess
import sys

import numpy as np

import fusedmlp as fm

ENTRIES = ("run", "forward", "backward", "apply", "apply_backward", "loss", "step")
# A process for each: the dtype, and who makes the products.
JOBS = (("float32", "own"), ("float64", "own"), ("float32", "blas"))


def main(*dtypes):
    if dtypes:
        for dtype in dtypes:
            for name in ENTRIES:
                fm.get_backend("cpu").entry(name, np.dtype(dtype))
        return 0
    started = [
        subprocess.Popen([sys.executable, __file__, dtype], env=os.environ | {"FUSEDMLP_CPU_PRODUCTS": products})
        for dtype, products in JOBS
    ]
    return max([process.wait() for process in started])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
