"""The losses: for each, its value and its gradient, once.

A rule of scope "element" is two scalar functions of prediction a and truth t: `value(a, t, p)` and
`gradient(a, t, p)`, which gives dL/da. A rule of scope "row" is a body over some rows of logits for each form in
which the truth may come: `probabilities(c, z, t, gradient, losses, weights, factor)` and
`indices(c, z, k, gradient, losses, weights, factor)`; both write each row's loss, to losses (n, 1), and its gradient,
apart from z and t, times factor and weight, where weights is (n,) or empty. The rows are at most as many as a tile has
columns: so there is room in a tile of scratch for a few numbers a row. All lanes meet before they return.

What a batch's loss is (sum, mean, weighted mean) is one factor, `reduction_factor`, worked out by the host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fusedmlp.kernels.activations import sigmoid_value
from fusedmlp.kernels.records import Parametrized, find
from fusedmlp.kernels.summation import row_exponentials, row_greatest, row_total, rows_exponentials
from fusedmlp.kernels.vocabulary import (
    const,
    exp,
    inner_loop,
    lane,
    lanes,
    log,
    log1p,
    row,
    rows_max,
    scratch,
    sync_lanes,
    thin,
)

NAN = float("nan")

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class Loss(Parametrized):
    """One loss: its formulas, and the output activation that it is fused with.

    name           how it is asked for
    value          value(a, t, p) -> the loss of one element (scope "element")
    gradient       gradient(a, t, p) -> dL/da (scope "element")
    probabilities  the body over rows whose truths are rows of probabilities (scope "row")
    indices        the body over rows whose truths are class indices (scope "row")
    logits         the output activation whose pre-activation this loss reads, fused with it (δ = a - t), or None
    parameters     pairs of name and value
    above_zero     the names of the parameters that must be above 0
    """

    name: str
    value: Callable[..., Any] | None = None
    gradient: Callable[..., Any] | None = None
    probabilities: Callable[..., Any] | None = None
    indices: Callable[..., Any] | None = None
    logits: str | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    above_zero: tuple[str, ...] = ()

    @cached_property
    def scope(self) -> Literal["element", "row"]:
        return "row" if self.value is None else "element"


def reduction_factor(loss: Loss, reduction: str, mass: float, outputs: int) -> float:
    """What every row's loss and gradient are multiplied by: 1 for "sum" and "none"; for "mean" one over the batch's
    mass (its number of rows, or the sum of its sample weights; 1 where a body divides by that sum), times the outputs
    of a row where the loss is a mean over elements, as PyTorch's MSELoss and CrossEntropyLoss are."""
    if reduction != "mean":
        return 1.0
    return 1.0 / (mass * outputs) if loss.scope == "element" else 1.0 / mass


def mse_value(a, t, p):
    return (a - t) * (a - t)


def mse_gradient(a, t, p):
    return const(a, 2) * (a - t)


def half_mse_value(a, t, p):
    return const(a, 0.5) * (a - t) * (a - t)


def half_mse_gradient(a, t, p):
    return a - t


def mae_value(a, t, p):
    return abs(a - t)


def mae_gradient(a, t, p):
    return sign(a - t)


def sign(d):
    """-1, 0 or 1; NaN stays NaN."""
    return const(d, 1) if d > const(d, 0) else (const(d, -1) if d < const(d, 0) else d)


def huber_value(a, t, p):
    delta = p[0]
    d = abs(a - t)
    return const(d, 0.5) * d * d if d <= delta else delta * (d - const(d, 0.5) * delta)


def huber_gradient(a, t, p):
    delta = p[0]
    d = a - t
    return d if abs(d) <= delta else delta * sign(d)


def binary_cross_entropy_value(z, t, p):
    """H(t, a) of the Bernoulli distributions t and a = sigmoid(z): -t log(a) - (1 - t) log(1 - a), written so that
    no finite z overflows: max(z, 0) - t z + log(1 + exp(-|z|))."""
    return (const(z, 0) if z <= const(z, 0) else z) - t * z + log1p(exp(-abs(z)))


def binary_cross_entropy_gradient(z, t, p):
    return sigmoid_value(z, p) - t


def cross_entropy_probabilities(c, z, t, gradient, losses, weights, factor):
    """H(t, a) = sum of -t log(a), a = softmax(z), for a probability row t; dH/dz = a sum(t) - t. As -log(a) is
    log(s) + (m - z), H is two sums of terms that are not negative."""
    for i in range(z.shape[0]):
        w = row_factor(weights, factor, i)
        losses[i, 0] = w * cross_entropy_of_row(c, row(z, i), row(t, i), row(gradient, i), w)
        sync_lanes(c)


def cross_entropy_of_row(c, z, t, gradient, w):
    """H, and its gradient times w. The gradient's row holds the terms of each sum before."""
    m, mass = row_greatest(c, z), row_total(c, t)
    for j in range(lane(c), z.shape[0], lanes(c)):
        gradient[j] = t[j] * (m - z[j])
    below = row_total(c, gradient)
    s = row_exponentials(c, z, m, gradient)
    for j in range(lane(c), z.shape[0], lanes(c)):
        gradient[j] = w * (gradient[j] / s * mass - t[j])
    return below + mass * log(s)


def cross_entropy_indices(c, z, k, gradient, losses, weights, factor):
    """The same for class indices k: the row t is 1 at k and 0 elsewhere, and H = log(s) + (m - z[k]).
    An index outside the row gives NaN, loss and gradient, and reads nothing.

    A row is a chain of steps that each wait for the one before. In several short passes over the rows a processor has
    many chains in hand at once, and takes the logarithms of all rows as vectors; and rows_max and rows_exp join the
    lanes of several at once (32 rows of ten: 0.45 us for 1.0, AMD EPYC)."""
    of_rows = scratch(c, z, 3, z.shape[0])
    below, s, w = row(of_rows, 0), row(of_rows, 1), row(of_rows, 2)  # below: m first, then m - z[k]
    rows_max(c, z, below)
    rows_exponentials(c, z, below, gradient, s)
    for i in range(lane(c), z.shape[0], lanes(c)):
        if 0 <= k[i] < z.shape[1]:
            below[i], w[i] = below[i] - z[i, k[i]], row_factor(weights, factor, i)
        else:
            w[i] = const(s[i], NAN)
    sync_lanes(c)
    for i in range(z.shape[0]):
        scale_span(c, row(gradient, i), w[i] / s[i])
    sync_lanes(c)
    logarithms_inplace(c, s, below, w)
    for i in range(lane(c), z.shape[0], lanes(c)):
        losses[i, 0] = s[i]
        if 0 <= k[i] < z.shape[1]:
            gradient[i, k[i]] -= w[i]
    sync_lanes(c)


@inner_loop
def scale_span(c, y, factor):
    for j in range(lane(c), y.shape[0], lanes(c)):
        y[j] *= factor


@inner_loop
def logarithms_inplace(c, s, below, w):
    """Each row's loss, w (log(s) + below), in the place of s."""
    for i in range(lane(c), s.shape[0], lanes(c)):
        s[i] = w[i] * (log(s[i]) + below[i])


@thin
def row_factor(weights, factor, i):
    """What the loss and the gradient of row i are multiplied by."""
    return factor * weights[i] if weights.shape[0] > 0 else factor


mse = Loss("mse", mse_value, mse_gradient)
half_mse = Loss("half_mse", half_mse_value, half_mse_gradient)
mae = Loss("mae", mae_value, mae_gradient)
huber = Loss("huber", huber_value, huber_gradient, parameters=(("delta", 1.0),), above_zero=("delta",))
binary_cross_entropy = Loss(
    "binary_cross_entropy", binary_cross_entropy_value, binary_cross_entropy_gradient, logits="sigmoid"
)
cross_entropy = Loss(
    "cross_entropy", probabilities=cross_entropy_probabilities, indices=cross_entropy_indices, logits="softmax"
)

REGISTRY: dict[str, Loss] = {
    rule.name: rule for rule in (mse, half_mse, mae, huber, binary_cross_entropy, cross_entropy)
}


def get(loss: str | Loss) -> Loss:
    """The loss of that name, or the record itself; errors as records.find."""
    return find(loss, REGISTRY, "loss", "loss")
