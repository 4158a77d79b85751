"""How far a right answer may lie from the oracle: the one place where a tolerance comes from.

Notation: `u` is the unit roundoff of the dtype, 2**-24 (float32) or 2**-53 (float64). The oracle computes in
float64 and errs as well, so every bound is taken with `u + 2**-53`; in float64 that doubles it, in float32
it is nothing.

**Sums.** A sum of n rounded terms, in any order, errs by at most `n u` times the sum of the terms' magnitudes
(Higham, Accuracy and Stability, section 3.1, first order in u). Rounding errors of mean zero reach no more
than `lambda sqrt(n) u` except with probability `2 n exp(-lambda**2 / 2)` (Higham and Mary, A new approach to
probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019). `growth(n)` is the smaller of both with
lambda = 6: 3e-8 n, for inputs whose seed is fixed. The magnitude of `x @ weight.T + bias` is
`|x| @ |weight|.T + |bias|`, of I + 1 terms.

**Functions.** One value of an activation, a loss or an update takes at most two calls of exp, log, tanh, erf
or sqrt, each good to 2 ulp (4 u; what CUDA documents for float32, the C libraries do better), and eight
products, quotients or sums: `2 * 4 + 8 = 16` u times the largest magnitude on the way. The oracle's rows name
that magnitude: |y| unless the formula cancels, as `1 + erf(z / sqrt(2))` does.

**Chains.** What errs by d before a function of Lipschitz constant L errs by L d behind it. Of all activations
here the GELUs are the steepest: L = 1.129. Where an element depends on its row, d is the row's largest and L
that of the maximum norm: 1/2 for softmax, 2 for log-softmax.

**Floor.** Numbers below the smallest normal one count as zero, so no tolerance reaches below it; nor below
its product with what such a number is multiplied by on the way (z in silu's `z * sigmoid(z)`).
"""

import numpy as np

LAMBDA = 6.0
EVALUATION = 16.0
LIPSCHITZ = {"element": 1.13, "row": 2.0}


def unit_roundoff(dtype):
    """`u` of the dtype plus that of the float64 oracle."""
    return (np.finfo(dtype).eps + np.finfo(np.float64).eps) / 2


def growth(terms):
    """Roundings, in units of u, that a sum of so many terms piles up."""
    return min(terms, LAMBDA * np.sqrt(terms))


def summation(dtype, terms, magnitude):
    """Error of a sum of `terms` terms whose absolute values add up to `magnitude`."""
    return growth(terms) * unit_roundoff(dtype) * magnitude


def evaluation(dtype, magnitude):
    """Error of one activation, loss element or update, `magnitude` the largest number on the way."""
    return EVALUATION * unit_roundoff(dtype) * magnitude


def underflow(dtype, factor):
    """Error of a number that was flushed to zero and then multiplied by `factor`."""
    return np.finfo(dtype).tiny * factor


def assert_close(got, expected, *, tolerance, dtype, name="result"):
    """Raise AssertionError unless the array `got` has that dtype, the shape of `expected`, and its values.

    `expected` is float64 (the oracle's) and `tolerance` broadcasts against it. NaN must meet NaN, an infinity
    the same infinity; elsewhere |got - expected| <= tolerance + the dtype's smallest normal number. The
    message names the worst index.
    """
    dtype, expected = np.dtype(dtype), np.asarray(expected)
    if expected.dtype != np.float64:
        raise TypeError(f"expected must be the oracle's float64, got {expected.dtype}")
    if not isinstance(got, np.ndarray):
        raise AssertionError(f"{name}: expected a NumPy array, got {type(got).__name__}")
    if got.dtype != dtype:
        raise AssertionError(f"{name}: expected dtype {dtype}, got {got.dtype}")
    if got.shape != expected.shape:
        raise AssertionError(f"{name}: expected shape {expected.shape}, got {got.shape}")
    if not got.size:
        return
    got = got.astype(np.float64)
    allowed = np.broadcast_to(np.asarray(tolerance, np.float64), got.shape) + np.finfo(dtype).tiny
    finite = np.isfinite(expected)
    if not np.isfinite(allowed[finite]).all():
        raise ValueError(f"{name}: the tolerance is not finite where the expected value is")
    with np.errstate(invalid="ignore"):
        error = np.where(finite & np.isfinite(got), np.abs(got - expected), np.inf)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        excess = np.where(same, 0.0, np.where(finite, error / allowed, np.inf))
    if excess.max() > 1:
        worst = tuple(int(i) for i in np.unravel_index(excess.argmax(), got.shape))
        raise AssertionError(
            f"{name}{list(worst)}: got {got[worst]:.9g}, expected {expected[worst]:.9g}, "
            f"error {error[worst]:.3g}, tolerance {allowed[worst]:.3g}; "
            f"{np.count_nonzero(excess > 1)} of {got.size} are off"
        )
