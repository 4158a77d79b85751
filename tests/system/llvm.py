"""`python llvm.py folder dtype body...`: compiles entries of the cpu backend afresh and writes their LLVM as optimized,
a file each. (Numba shows none for a kernel that comes from its cache on disk.)"""

import sys
import warnings
from pathlib import Path

import numpy as np

import fusedmlp as fm


def main(folder, dtype, *bodies):
    warnings.simplefilter("error")
    for body in bodies:
        dispatcher = fm.get_backend("cpu").dispatcher(body, np.dtype(dtype))
        (text,) = dispatcher.inspect_llvm().values()
        Path(folder, f"{body}.{dtype}.ll").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
