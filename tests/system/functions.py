"""`python functions.py`: the errors of the processor's mathematical functions, in units in the last place, and whether
loops over the activations are loops over vectors, for the processor for which Numba compiles."""

import re

import mpmath
import numpy as np
from numba import njit, types
from scipy import special

from fusedmlp.backends import get_backend
from fusedmlp.backends.cpu import mathematics
from fusedmlp.backends.cpu.compiling import ENTRY
from fusedmlp.backends.cpu.product import register_tile
from fusedmlp.kernels import activations, dense
from fusedmlp.kernels.activations import PARAMETERS

ULPS = {"exp": 2, "expm1": 4, "log": 4, "log1p": 4, "tanh": 4, "erf": 4}
ORACLE = {name: getattr(special if name == "erf" else np, name) for name in ULPS}
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]


def values(name, x):
    """The function of an array, in a loop as kernels have it."""
    word = mathematics.WORDS[name]

    @njit(**ENTRY)
    def body(x, y):
        for i in range(x.shape[0]):
            y[i] = word(x[i])

    y = np.empty_like(x)
    body(x, y)
    return y


def ulps(y, expected, rounded):
    """How far y is from the expected numbers, `rounded` being these in the dtype of y, as float64. Where they are not
    finite y must be the same; where they are below the least normal number, no greater than that."""
    least = np.finfo(y.dtype).tiny
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(y[~finite], rounded[~finite])
    small = finite & (np.abs(rounded) < least)
    assert (np.abs(y[small]) <= least).all()
    normal = finite & ~small
    assert np.isfinite(y[normal]).all()
    error = np.zeros(y.shape)
    error[normal] = np.abs((y[normal] - expected[normal]).astype(np.float64) / np.spacing(np.abs(rounded[normal])))
    return error


def worst_in_float32(name):
    """(ulps, where) over every exponent of either sign, and densely where results are neither 0 nor infinite, against
    float64."""
    rng = np.random.default_rng(0)
    everywhere = np.arange(0, 2**32, 1021, np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([everywhere, *(rng.uniform(-e, e, 500_000) for e in (1, 5, 110)), SPECIAL], dtype=np.float32)
    x = x[(x == 0) | ~(np.abs(x) < np.finfo(np.float32).tiny)]  # a subnormal number counts as zero
    with np.errstate(all="ignore"):
        expected = ORACLE[name](x.astype(np.float64))
        rounded = expected.astype(np.float32)
    y = values(name, x)
    np.testing.assert_array_equal(np.signbit(y[x == 0]), np.signbit(rounded[x == 0]))
    error = ulps(y, expected, rounded)
    return error.max(), x[error.argmax()]


def worst_in_float64(name):
    """The same against numbers of 40 digits, at fewer points."""
    rng = np.random.default_rng(0)
    spread = rng.choice([-1, 1], 1000) * 2.0 ** rng.uniform(-1022, 1023, 1000)
    x = np.concatenate([spread, *(rng.uniform(-e, e, 2000) for e in (0.1, 1, 7, 800))])
    with np.errstate(all="ignore"):
        x = x[np.isfinite(ORACLE[name](x))]
    with mpmath.workdps(40):
        exact = [getattr(mpmath, name)(mpmath.mpf(float(argument))) for argument in x]
        rounded = np.array([float(number) for number in exact])
        rest = np.array([float(number - mpmath.mpf(float(near))) for number, near in zip(exact, rounded, strict=True)])
    y = values(name, x)
    small = np.abs(rounded) < np.finfo(np.float64).tiny
    assert (np.abs(y[small]) <= np.finfo(np.float64).tiny).all()
    error = np.where(small, 0, np.abs((y - rounded) - rest) / np.spacing(np.abs(rounded)))
    return error.max(), x[error.argmax()]


def loops(assembly):
    """The blocks of an x86 function that jump back to their own label."""
    blocks = re.split(r"(?m)^(\.LBB\w+):.*$", assembly)
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        found = re.search(rf"^\s*j\w+\s+{re.escape(label)}$", body, re.MULTILINE)
        if found:
            yield body[: found.end()]


def span(rule, what, scalar):
    """The assembly of an entry that is a rule's inner loop, over values or over slopes."""
    numbers, row = types.Array(types.int64, 1, "C"), types.Array(scalar, 1, "C")
    context, parameters = types.Tuple((types.int64, types.int64, numbers, row)), types.UniTuple(scalar, PARAMETERS)
    if what == "value":
        holes, body = {"value": rule.value, "SAVES_PREACTIVATION": rule.saves == "preactivation"}, dense.activate_span
        signature = (context, row, row, row, types.boolean, parameters)
    else:
        holes, body = {"gradient": rule.gradient}, dense.gradient_span
        signature = (context, row, row, row, parameters)
    binder = get_backend("cpu")._binder
    holes = {name: binder._bind(hole) if callable(hole) else hole for name, hole in holes.items()}
    called = binder._bind(body, holes, f"{rule.name}.{scalar}")
    dispatcher = njit(**ENTRY)(lambda arguments: called(*arguments))
    dispatcher.compile((types.Tuple(signature),))
    (assembly,) = dispatcher.inspect_asm().values()
    return assembly


def check_loops(scalar):
    """In each inner loop of a rule that has a function in it there are vectors as wide as they come, and no loop calls
    anything."""
    register = {512: "zmm", 256: "ymm", 128: "xmm"}[register_tile().bits]
    for rule in activations.REGISTRY.values():
        for what in ("value", "gradient") if rule.scope == "element" else ():
            found = list(loops(span(rule, what, scalar)))
            calling = [loop for loop in found if re.search(r"\bcall", loop)]
            assert not calling, f"{rule.name}'s {what} calls in a loop: {calling[0]}"
            wide = [loop for loop in found if re.search(rf"(mul|add|sub|div)\d*p[sd]\s.*{register}", loop)]
            # Two numbers in a vector may not be worth it: LLVM leaves softplus in float64 alone where it has 128 bits.
            if rule.name not in ("identity", "relu", "leaky_relu") and register_tile().lanes(scalar.bitwidth) > 2:
                assert wide, f"{rule.name}'s {what} in {scalar} has no loop over {register}"


def main():
    for scalar, worst in ((types.float32, worst_in_float32), (types.float64, worst_in_float64)):
        for name, most in ULPS.items():
            error, where = worst(name)
            print(f"{name} {scalar}: {error:.2f} ulp at {where!r}")
            assert error <= most
        check_loops(scalar)
    print(f"in vectors of {register_tile().bits} bits")


if __name__ == "__main__":
    main()
