"""The activations: for each, its value and its derivative, once.

A rule of scope "element" is two scalar functions, `value(z, p)` and `gradient(saved, p)`, which gives da/dz;
`saved` is the output or the pre-activation, as `saves` says, and p holds the rule's parameters.
A rule of scope "row" is two bodies over one row: `value(c, z, y)` writes y, `gradient(c, dy, y, dz)` writes dz;
each may write over what it reads.

Derivatives at kinks are PyTorch's: relu'(0) = 0, leaky_relu'(0) = slope, elu'(0) = alpha. NaN stays NaN:
`0 if z <= 0 else z` keeps it, `z if z > 0 else 0` would lose it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fusedmlp.kernels.records import Parametrized, find
from fusedmlp.kernels.summation import compensated, row_exponentials, row_greatest, row_total
from fusedmlp.kernels.vocabulary import (
    const,
    erf,
    exp,
    expm1,
    in_place,
    inner_loop,
    lane,
    lanes,
    log,
    log1p,
    row,
    scratch,
    tile_columns,
    tile_rows,
    vector,
)
from fusedmlp.kernels.vocabulary import tanh as tanh_word  # `tanh` itself names the rule

PARAMETERS = 2  # The most parameters that a rule has; every rule is handed as many.

SQRT_HALF = 0.7071067811865476
SQRT_2_OVER_PI = 0.7978845608028654
ONE_OVER_SQRT_2_PI = 0.3989422804014327
GELU_CUBIC = 0.044715  # Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2.


@dataclass(frozen=True)
class Activation(Parametrized):
    """One activation: its formulas, what its derivative is computed from, and its parameters.

    name        how it is asked for
    value       value(z, p) -> a for scope "element", value(c, z, y) for scope "row"
    gradient    gradient(saved, p) -> da/dz for scope "element", gradient(c, dy, y, dz) for scope "row"
    saves       what `saved` is: the "output" a, or the "preactivation" z
    scope       "element": each element by itself; "row": a row at a time
    parameters  pairs of name and value
    above_zero  the names of the parameters that must be above 0
    """

    name: str
    value: Callable[..., Any]
    gradient: Callable[..., Any]
    saves: Literal["output", "preactivation"] = "output"
    scope: Literal["element", "row"] = "element"
    parameters: tuple[tuple[str, float], ...] = ()
    above_zero: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scope == "row" and self.saves != "output":
            raise ValueError(f"{self.name}: a rule of scope 'row' saves its output, got saves={self.saves!r}")
        if len(self.parameters) > PARAMETERS:
            raise ValueError(f"{self.name}: a rule has at most {PARAMETERS} parameters, got {len(self.parameters)}")

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value:g}' for name, value in self.parameters)})"


def identity_value(z, p):
    return z


def identity_gradient(a, p):
    return const(a, 1)


def relu_value(z, p):
    return const(z, 0) if z <= const(z, 0) else z


def relu_gradient(a, p):
    return const(a, 0) if a <= const(a, 0) else const(a, 1)


def leaky_relu_value(z, p):
    slope = p[0]
    return z if z > const(z, 0) else slope * z


def leaky_relu_gradient(z, p):
    slope = p[0]
    return const(z, 1) if z > const(z, 0) else slope


def sigmoid_value(z, p):
    return const(z, 1) / (const(z, 1) + exp(-z))


def sigmoid_gradient(a, p):
    return a * (const(a, 1) - a)


def tanh_value(z, p):
    return tanh_word(z)


def tanh_gradient(a, p):
    return const(a, 1) - a * a


def normal_cdf(z):
    """The standard normal distribution function at z."""
    return const(z, 0.5) * (const(z, 1) + erf(z * const(z, SQRT_HALF)))


def gelu_value(z, p):
    return z * normal_cdf(z)


def gelu_gradient(z, p):
    density = const(z, ONE_OVER_SQRT_2_PI) * exp(const(z, -0.5) * z * z)
    return normal_cdf(z) + z * density


def gelu_tanh_inner(z):
    return tanh_word(const(z, SQRT_2_OVER_PI) * (z + const(z, GELU_CUBIC) * z * z * z))


def gelu_tanh_value(z, p):
    return const(z, 0.5) * z * (const(z, 1) + gelu_tanh_inner(z))


def gelu_tanh_gradient(z, p):
    t = gelu_tanh_inner(z)
    slope = const(z, SQRT_2_OVER_PI) * (const(z, 1) + const(z, 3 * GELU_CUBIC) * z * z)
    return const(z, 0.5) * (const(z, 1) + t + z * (const(z, 1) - t * t) * slope)


def silu_value(z, p):
    return z * sigmoid_value(z, p)


def silu_gradient(z, p):
    a = sigmoid_value(z, p)
    return a + z * sigmoid_gradient(a, p)


def elu_value(z, p):
    alpha = p[0]
    return z if z > const(z, 0) else alpha * expm1(z)


def elu_gradient(z, p):
    alpha = p[0]
    return const(z, 1) if z > const(z, 0) else alpha * exp(z)


@inner_loop
def softplus_value(z, p):
    beta, threshold = p
    return z if beta * z > threshold else log1p(exp(beta * z)) / beta


def softplus_gradient(z, p):
    beta, threshold = p
    return const(z, 1) if beta * z > threshold else sigmoid_value(beta * z, p)


def softmax_value(c, z, y):
    s = row_exponentials(c, z, row_greatest(c, z), y)
    for j in range(lane(c), y.shape[0], lanes(c)):
        y[j] /= s


def softmax_gradient(c, dy, y, dz):
    """dz = y dy - y times the sum of y dy."""
    dy = in_place(c, dy, dz)
    for j in range(lane(c), y.shape[0], lanes(c)):
        dz[j] = y[j] * dy[j]
    dot = row_total(c, dz)
    for j in range(lane(c), y.shape[0], lanes(c)):
        dz[j] -= y[j] * dot


def log_softmax_value(c, z, y):
    """y may be z, so the exponentials go to scratch, a tile at a time."""
    m, room = row_greatest(c, z), tile_rows(c) * tile_columns(c)
    s, error = const(m, 0), const(m, 0)
    for start in range(0, z.shape[0], room):
        count = min(room, z.shape[0] - start)
        part = row_exponentials(c, vector(z, start, count), m, row(scratch(c, z, 1, count), 0))
        s, error = compensated(s, error, part)
    subtract_span(c, z, m, log(s), y)


def subtract_span(c, z, m, log_s, y):
    z = in_place(c, z, y)
    for j in range(lane(c), z.shape[0], lanes(c)):
        y[j] = z[j] - m - log_s


def log_softmax_gradient(c, dy, y, dz):
    total = row_total(c, dy)
    dy = in_place(c, dy, dz)
    for j in range(lane(c), y.shape[0], lanes(c)):
        dz[j] = dy[j] - exp(y[j]) * total


identity = Activation("identity", identity_value, identity_gradient)
relu = Activation("relu", relu_value, relu_gradient)
leaky_relu = Activation(
    "leaky_relu", leaky_relu_value, leaky_relu_gradient, saves="preactivation", parameters=(("slope", 0.01),)
)
sigmoid = Activation("sigmoid", sigmoid_value, sigmoid_gradient)
tanh = Activation("tanh", tanh_value, tanh_gradient)
gelu = Activation("gelu", gelu_value, gelu_gradient, saves="preactivation")
gelu_tanh = Activation("gelu_tanh", gelu_tanh_value, gelu_tanh_gradient, saves="preactivation")
silu = Activation("silu", silu_value, silu_gradient, saves="preactivation")
elu = Activation("elu", elu_value, elu_gradient, saves="preactivation", parameters=(("alpha", 1.0),))
softplus = Activation(
    "softplus",
    softplus_value,
    softplus_gradient,
    saves="preactivation",
    parameters=(("beta", 1.0), ("threshold", 20.0)),
    above_zero=("beta",),
)
softmax = Activation("softmax", softmax_value, softmax_gradient, scope="row")
log_softmax = Activation("log_softmax", log_softmax_value, log_softmax_gradient, scope="row")

REGISTRY: dict[str, Activation] = {
    rule.name: rule
    for rule in (
        identity,
        relu,
        leaky_relu,
        sigmoid,
        tanh,
        gelu,
        gelu_tanh,
        silu,
        elu,
        softplus,
        softmax,
        log_softmax,
    )
}


def get(activation: str | Activation, argument: str = "activation") -> Activation:
    """The activation of that name, or the record itself; errors as records.find."""
    return find(activation, REGISTRY, argument, "activation")
