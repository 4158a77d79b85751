"""How Numba compiles what runs on the processor."""

from fusedmlp.backends.cpu.inlining import OneByOne

# Of every compiled function. error_model: with Python's, an x / 0.0 in one worker would leave the others waiting for
# ever, and an Adam loop of a sketch ran six times slower. No fastmath: it drops the checks for NaN.
OPTIONS = {"nogil": True, "error_model": "numpy", "pipeline_class": OneByOne}

# Of functions that only other compiled functions call: the wrappers cost a third of the time to compile.
CALLED = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
INLINED = CALLED | {"inline": "always"}
INNER_LOOP = CALLED | {"forceinline": True}
