"""What is right: PyTorch in float64 on the CPU, with the tolerance that its numbers carry.

ACTIVATIONS, LOSSES and OPTIMIZERS have one row per rule of the library; a new rule is one new row. The
functions below them answer with `Expected`: a float64 value, how far a kernel of the inputs' dtype may lie
from it (derived in tolerance.py), and `check(got)`, which raises. `arguments` makes a working call of each of
KERNELS.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from tolerance import LIPSCHITZ, assert_close, evaluation, summation, underflow


@dataclass(frozen=True)
class Case:
    """A rule by name, with the options that differ from its defaults. Its text is its part of a test's id."""

    name: str
    options: dict = field(default_factory=dict)

    def __str__(self):
        options = (f"{key}={value}".replace(" ", "") for key, value in self.options.items())
        return "_".join([self.name, *options])

    def rule(self, records):
        """What the library takes: the plain name, or the record that `records.<name>(**options)` makes."""
        return getattr(records, self.name)(**self.options) if self.options else self.name


@dataclass(frozen=True)
class Expected:
    value: np.ndarray
    tolerance: np.ndarray
    dtype: np.dtype

    def check(self, got, name="result"):
        assert_close(got, self.value, tolerance=self.tolerance, dtype=self.dtype, name=name)

    def __getitem__(self, index):
        return replace(self, value=self.value[index], tolerance=self.tolerance[index])


def variants(table):
    """Every row of a table as cases: its defaults, then its variants."""
    return [Case(name, options) for name, row in table.items() for options in ({}, *row.variants)]


def extent(shape):
    """A shape's part of a test's id: 7x13x5."""
    return "x".join(map(str, shape))


def tensor(array, requires_grad=False):
    return torch.tensor(np.array(array, np.float64), requires_grad=requires_grad)


def tame(array):
    """The same numbers without NaN and infinities, which have no magnitude."""
    return np.nan_to_num(np.asarray(array, np.float64), nan=0.0, posinf=1e4, neginf=-1e4)


def numerical_gradient(function, array, step):
    """Central differences of a scalar function of one float64 array, element by element."""
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        ahead, behind = array.copy(), array.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (ahead[index] - behind[index])
    return gradient


# --- activations ------------------------------------------------------------------------------------------


def sigma(z):
    return torch.sigmoid(torch.tensor(z)).numpy()


def gelu_tanh_slope(dy, z, y):
    """1 for `1 + tanh`, and what a rounding of tanh becomes in `z (1 - tanh^2)`; beyond 8 tanh is 1."""
    return dy * (1 + np.where(np.abs(z) < 8, 0.8 * np.abs(z) * (1 + 0.134 * z**2), 0))


def below_max(z):
    """How far each element of a row lies below the row's largest: the argument that a softmax's exp sees."""
    return z.max(-1, keepdims=True, initial=-np.inf) - z


def row_total(array):
    return array.sum(-1, keepdims=True)


class Activation(NamedTuple):
    """`value(z, **options)` in PyTorch, and the largest magnitudes on the way to y and to dz.

    These are functions of z, y and the options, the second of |dy| as well. Scope "row" says that an element
    of y depends on its whole row.
    """

    value: Callable
    magnitude: Callable = lambda z, y: np.abs(y)
    slope_magnitude: Callable = lambda dy, z, y: dy
    variants: tuple = ()
    scope: str = "element"


ACTIVATIONS = {
    "identity": Activation(lambda z: z),
    "relu": Activation(F.relu),
    "leaky_relu": Activation(
        lambda z, slope=0.01: F.leaky_relu(z, slope),
        lambda z, y, slope=0.01: np.abs(y),
        lambda dy, z, y, slope=0.01: dy * np.where(z > 0, 1, slope),
        ({"slope": 0.2},),
    ),
    "sigmoid": Activation(torch.sigmoid, slope_magnitude=lambda dy, z, y: dy * y),
    "tanh": Activation(torch.tanh),
    "softmax": Activation(
        lambda z: torch.softmax(z, -1),
        lambda z, y: y * (1 + below_max(z)),
        lambda dy, z, y: y * (dy + row_total(dy * y)),
        scope="row",
    ),
    "log_softmax": Activation(
        lambda z: torch.log_softmax(z, -1),
        lambda z, y: 1 + below_max(z) + np.log(max(1, z.shape[-1])),
        lambda dy, z, y: dy + np.exp(y) * (1 - y) * row_total(dy),
        scope="row",
    ),
    "gelu": Activation(F.gelu, magnitude=lambda z, y: np.abs(z)),
    "gelu_tanh": Activation(lambda z: F.gelu(z, approximate="tanh"), lambda z, y: np.abs(z), gelu_tanh_slope),
    "silu": Activation(F.silu, slope_magnitude=lambda dy, z, y: dy * sigma(z) * (1 + np.abs(z))),
    "elu": Activation(
        lambda z, alpha=1.0: F.elu(z, alpha),
        lambda z, y, alpha=1.0: np.abs(y),
        lambda dy, z, y, alpha=1.0: dy * np.where(z > 0, 1, alpha),
        ({"alpha": 0.5},),
    ),
    "softplus": Activation(
        lambda z, beta=1.0, threshold=20.0: F.softplus(z, beta, threshold),
        lambda z, y, beta=1.0, threshold=20.0: y + np.abs(z) * sigma(beta * z),
        lambda dy, z, y, beta=1.0, threshold=20.0: dy * sigma(beta * z) * (1 + np.abs(beta * z)),
        ({"beta": 2.0}, {"beta": 0.5, "threshold": 3.0}),
    ),
}
ACTIVATION_CASES = variants(ACTIVATIONS)


def activate(z, case):
    row, dtype = ACTIVATIONS[case.name], z.dtype
    y = row.value(tensor(z), **case.options).numpy()
    return Expected(y, activation_tolerance(case, z, y, dtype), dtype)


def activation_tolerance(case, z, y, dtype):
    row, z, y = ACTIVATIONS[case.name], tame(z), tame(y)
    return rule_tolerance(row, row.magnitude(z, y, **case.options), np.abs(z), dtype)


def slope_tolerance(case, dy, z, y, dtype):
    row, z, y, dy = ACTIVATIONS[case.name], tame(z), tame(y), np.abs(tame(dy))
    return rule_tolerance(row, row.slope_magnitude(dy, z, y, **case.options), dy * np.abs(z), dtype)


def rule_tolerance(row, magnitude, factor, dtype):
    terms = magnitude.shape[-1] if row.scope == "row" else 0
    return evaluation(dtype, magnitude) + summation(dtype, terms, magnitude) + underflow(dtype, factor)


def saved(z, case, saves, dtype):
    """What the forward pass keeps for the gradient, exact but for its one rounding to the dtype."""
    return (activate(z, case).value if saves == "output" else z).astype(dtype)


def activation_backward(dy, z, case):
    inner = tensor(z, requires_grad=True)
    y = ACTIVATIONS[case.name].value(inner, **case.options)
    y.backward(tensor(dy))
    return Expected(inner.grad.numpy(), slope_tolerance(case, dy, z, y.detach().numpy(), z.dtype), z.dtype)


# --- the dense layer --------------------------------------------------------------------------------------


def preactivation(x, weight, bias):
    """z of x (B, I), weight (O, I) and bias (O,) or None."""
    bias = np.zeros(len(weight), x.dtype) if bias is None else bias
    z = F.linear(tensor(x), tensor(weight), tensor(bias)).numpy()
    x, weight, bias = (np.abs(np.asarray(array, np.float64)) for array in (x, weight, bias))
    return z, x @ weight.T + bias


def dense_forward(x, weight, bias, case):
    """y and z."""
    z, magnitude = preactivation(x, weight, bias)
    error = summation(x.dtype, x.shape[1] + 1, magnitude)
    y = ACTIVATIONS[case.name].value(tensor(z), **case.options).numpy()
    behind = LIPSCHITZ[ACTIVATIONS[case.name].scope] * error
    if ACTIVATIONS[case.name].scope == "row":
        behind = behind.max(1, keepdims=True, initial=0)
    tolerance = activation_tolerance(case, z, y, x.dtype) + behind
    return Expected(y, tolerance, x.dtype), Expected(z, error, x.dtype)


def dense_backward(dy, x, weight, bias, case):
    """dx, dweight and dbias, for a `saved` that is exact but for its rounding."""
    dtype, (rows, outputs) = x.dtype, dy.shape
    bias = np.zeros(outputs, dtype) if bias is None else bias
    leaves = [tensor(array, requires_grad=True) for array in (x, weight, bias)]
    z = F.linear(*leaves)
    z.retain_grad()
    y = ACTIVATIONS[case.name].value(z, **case.options)
    y.backward(tensor(dy))
    dz = np.abs(z.grad.numpy())
    error = slope_tolerance(case, dy, z.detach().numpy(), y.detach().numpy(), dtype)
    x, weight, ones = np.abs(tame(x)), np.abs(tame(weight)), np.ones(rows)
    tolerances = (
        error @ weight + summation(dtype, outputs, dz @ weight),
        error.T @ x + summation(dtype, rows, dz.T @ x),
        ones @ error + summation(dtype, rows, ones @ dz),
    )
    return tuple(Expected(leaf.grad.numpy(), bound, dtype) for leaf, bound in zip(leaves, tolerances, strict=True))


# --- losses -----------------------------------------------------------------------------------------------


def binary_cross_entropy(z, t):
    """PyTorch's, without the cancellation of `(1 - t) z - log sigma(z)`, which leaves it no digit of e**-40.

    Beyond 40, softplus(z) is z to the last bit of float64.
    """
    return t * F.softplus(-z, threshold=40) + (1 - t) * F.softplus(z, threshold=40)


def binary_magnitudes(z, t):
    return np.maximum(z, 0) + np.abs(z * t) + np.log1p(np.exp(-np.abs(z))), sigma(z) + t


def categorical_magnitudes(z, t):
    if t.ndim == 1:
        t = one_hot(t, z.shape[1], np.float64)
    far = below_max(z)
    p = torch.softmax(torch.tensor(z), 1).numpy()
    return (t * far).sum(1) + t.sum(1) * (1 + np.log(max(1, z.shape[1]))), p * (1 + far) + t


class Loss(NamedTuple):
    """`value(prediction, target, **options)` in PyTorch, unreduced; the forms of its target (see `target`);
    the magnitudes on the way to value and gradient, where the results' own are too small.
    """

    value: Callable
    forms: tuple = ("values",)
    magnitudes: Callable | None = None
    variants: tuple = ()
    scope: str = "element"


LOSSES = {
    "mse": Loss(lambda a, t: F.mse_loss(a, t, reduction="none")),
    "half_mse": Loss(lambda a, t: F.mse_loss(a, t, reduction="none") / 2),
    "mae": Loss(lambda a, t: F.l1_loss(a, t, reduction="none")),
    "huber": Loss(
        lambda a, t, delta=1.0: F.huber_loss(a, t, reduction="none", delta=delta), variants=({"delta": 0.3},)
    ),
    "binary_cross_entropy_with_logits": Loss(
        binary_cross_entropy,
        ("binary", "probability"),
        binary_magnitudes,
    ),
    "cross_entropy": Loss(
        lambda z, t: F.cross_entropy(z, t, reduction="none"),
        ("index", "onehot", "distribution"),
        categorical_magnitudes,
        scope="row",
    ),
}
LOSS_CASES = variants(LOSSES)
LOSS_FORMS = [(case, form) for case in LOSS_CASES for form in LOSSES[case.name].forms]
REDUCTIONS = ("mean", "sum", "none")


def target(form, rows, outputs, rng, dtype):
    """A target of that form for a prediction of shape (rows, outputs)."""
    if form == "values":
        return rng.normal(size=(rows, outputs)).astype(dtype)
    if form == "binary":
        return rng.integers(0, 2, (rows, outputs)).astype(dtype)
    if form == "probability":
        return rng.random((rows, outputs)).astype(dtype)
    if form == "index":
        return rng.integers(0, outputs, rows)
    if form == "onehot":
        return one_hot(rng.integers(0, outputs, rows), outputs, dtype)
    return rng.dirichlet(np.ones(outputs), rows).astype(dtype)


def one_hot(labels, outputs, dtype):
    rows = np.zeros((len(labels), outputs), dtype)
    rows[np.arange(len(labels)), labels] = 1
    return rows


def target_tensor(target):
    """Class indices as int64, everything else as float64."""
    return torch.tensor(target.astype(np.int64 if target.dtype.kind in "iu" else np.float64))


def reduce_loss(unreduced, outputs, reduction, sample_weight):
    """A weighted mean divides by the sum of the weights times `outputs`, the loss's elements in a row."""
    if sample_weight is None:
        weighted, count = unreduced, unreduced.numel()
    else:
        weighted = unreduced * sample_weight.reshape(-1, *[1] * (unreduced.ndim - 1))
        count = sample_weight.sum() * outputs
    return {"none": weighted, "sum": weighted.sum(), "mean": weighted.sum() / count}[reduction]


def loss(case, prediction, target, reduction="mean", sample_weight=None):
    """Loss and gradient; with "none" the gradient is that of the sum."""
    row, dtype, (rows, outputs) = LOSSES[case.name], prediction.dtype, prediction.shape
    leaf = tensor(prediction, requires_grad=True)
    weights = None if sample_weight is None else tensor(sample_weight)
    unreduced = row.value(leaf, target_tensor(target), **case.options)
    value = reduce_loss(unreduced, outputs if unreduced.ndim == 2 else 1, reduction, weights)
    value.sum().backward()
    value, gradient = value.detach().numpy(), leaf.grad.numpy()

    row_terms = outputs if row.scope == "row" else 0
    mean_terms = rows if reduction == "mean" and weights is not None else 0
    if row.magnitudes is None:
        magnitude, slope = np.abs(tame(unreduced.detach().numpy())), np.abs(tame(gradient))
    else:
        magnitude, slope = row.magnitudes(tame(prediction), target if target.ndim == 1 else tame(target))
        scale = np.ones(rows) if weights is None else weights.numpy()
        if reduction == "mean" and rows:
            scale = scale / (scale.sum() * (outputs if unreduced.ndim == 2 else 1))
        slope = slope * scale[:, None]
    magnitude = reduce_loss(torch.tensor(magnitude), outputs if unreduced.ndim == 2 else 1, reduction, weights)
    terms = row_terms + mean_terms + (unreduced.numel() if reduction != "none" else 0)
    bounds = [
        evaluation(dtype, size) + summation(dtype, count, size)
        for size, count in ((magnitude.numpy(), terms), (slope, row_terms + mean_terms))
    ]
    return Expected(value, bounds[0], dtype), Expected(gradient, bounds[1], dtype)


# --- optimizers -------------------------------------------------------------------------------------------


class Optimizer(NamedTuple):
    """PyTorch's class, with the library's option names. Coupled: weight decay is added to the gradient."""

    make: Callable
    variants: tuple = ()
    coupled: bool = True


OPTIMIZERS = {
    "SGD": Optimizer(
        torch.optim.SGD,
        (
            {"lr": 0.05},
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            {"lr": 0.05, "weight_decay": 0.1},
            {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        ),
    ),
    "Adam": Optimizer(
        torch.optim.Adam,
        ({"lr": 0.05}, {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-3}, {"lr": 0.05, "weight_decay": 0.1}),
    ),
    "AdamW": Optimizer(torch.optim.AdamW, ({"lr": 0.05}, {"lr": 0.05, "weight_decay": 0.5}), coupled=False),
    "RMSprop": Optimizer(
        torch.optim.RMSprop,
        (
            {"alpha": 0.9, "eps": 1e-3},
            {"momentum": 0.9},
            {"centered": True},
            {"momentum": 0.9, "centered": True, "weight_decay": 0.1},
        ),
    ),
}
OPTIMIZER_CASES = variants(OPTIMIZERS)


def trajectory(case, parameter, gradients):
    """The parameter after each step.

    Each step rounds the parameter twice and adds an update; the updates, summed without their signs, are the
    path of the same optimizer that starts at 0 and always gets minus the gradient's magnitude.
    """
    row, dtype = OPTIMIZERS[case.name], parameter.dtype
    decay = case.options.get("weight_decay", 0.0) if row.coupled else 0.0
    leaf, path = tensor(parameter, requires_grad=True), tensor(np.zeros_like(parameter), requires_grad=True)
    optimizer = row.make([leaf], **case.options)
    walker = row.make([path], **{**case.options, "weight_decay": 0.0})
    largest, states = np.abs(leaf.detach().numpy()), []
    for step, gradient in enumerate(gradients, 1):
        path.grad = -(tensor(gradient) + decay * leaf.detach()).abs()
        leaf.grad = tensor(gradient)
        optimizer.step()
        walker.step()
        value, walked = leaf.detach().numpy().copy(), path.detach().numpy()
        largest = np.maximum(largest, np.abs(value))
        bound = summation(dtype, 2 * step, largest) + summation(dtype, step, walked) + evaluation(dtype, walked)
        states.append(Expected(value, bound, dtype))
    return states


# --- training ---------------------------------------------------------------------------------------------


class Apply(torch.nn.Module):
    """An activation as a module of its own, so that the keys of the state are those of a plain Sequential."""

    def __init__(self, case):
        super().__init__()
        self.case = case

    def forward(self, z):
        return ACTIVATIONS[self.case.name].value(z, **self.case.options)


FUSED_OUTPUTS = {("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy")}


def as_case(rule):
    return rule if isinstance(rule, Case) else Case(rule)


def train(
    sizes, activation, output, loss, optimizer, x, y, batches, weights, *,
    dtype=torch.float64, bias=True, reduction="mean", sample_weight=None,
):  # fmt: skip
    """Train `torch.nn.Sequential(Linear, activation, Linear, ...)`; give the loss of each step and the state.

    `activation` is one for all hidden layers or a list, each a name or a Case, as are `output` and `loss`;
    `optimizer` a Case. `batches` is the order: one array of row indices a step. `weights` is the starting
    state ("0.weight", ...), as arrays; so is the state in the answer. A fused pair of output and loss reads
    logits.
    """
    layers = len(sizes) - 1
    hidden = [
        as_case(rule) for rule in ([activation] * (layers - 1) if isinstance(activation, str | Case) else activation)
    ]
    output, loss = as_case(output), as_case(loss)
    modules = []
    for i in range(layers):
        modules += [torch.nn.Linear(sizes[i], sizes[i + 1], bias=bias)]
        modules += [Apply(hidden[i])] if i < layers - 1 else []
    network = torch.nn.Sequential(*modules).to(dtype)
    network.load_state_dict({key: torch.tensor(np.array(value)).to(dtype) for key, value in weights.items()})
    head = Case("identity") if (output.name, loss.name) in FUSED_OUTPUTS else output
    name = {"binary_cross_entropy": "binary_cross_entropy_with_logits"}.get(loss.name, loss.name)
    stepper = OPTIMIZERS[optimizer.name].make(network.parameters(), **optimizer.options)

    x, y = torch.tensor(np.array(x)).to(dtype), np.array(y)
    if name == "cross_entropy" and y.ndim == 1:
        y = torch.tensor(y.astype(np.int64))
    else:
        y = torch.tensor(y).to(dtype).reshape(len(y), -1)
    shares = None if sample_weight is None else torch.tensor(np.array(sample_weight)).to(dtype)
    losses = []
    for rows in batches:
        rows = torch.as_tensor(np.array(rows, np.int64))
        unreduced = LOSSES[name].value(Apply(head)(network(x[rows])), y[rows], **loss.options)
        outputs = sizes[-1] if unreduced.ndim == 2 else 1
        value = reduce_loss(unreduced, outputs, reduction, None if shares is None else shares[rows])
        stepper.zero_grad()
        value.backward()
        stepper.step()
        losses.append(float(value.detach()))
    return np.array(losses), {key: value.cpu().numpy().copy() for key, value in network.state_dict().items()}


# --- one working call of every kernel ---------------------------------------------------------------------

DENSE_KERNELS = ("dense_forward", "dense_backward")
ACTIVATION_KERNELS = ("activate", "activation_backward", "softmax", "log_softmax")
KERNELS = (*DENSE_KERNELS, *ACTIVATION_KERNELS, *LOSSES)


def arguments(kernel, rng, dtype, shape=(6, 4, 5)):
    """Arguments by name for a plain call: x (B, I), weight (O, I), everything else (B, O)."""
    rows, inputs, outputs = shape

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    if kernel == "dense_forward":
        operands = {"x": normal(rows, inputs), "weight": normal(outputs, inputs), "bias": normal(outputs)}
        return operands | {"activation": "sigmoid"}
    if kernel == "dense_backward":
        operands = {"dy": normal(rows, outputs), "x": normal(rows, inputs), "weight": normal(outputs, inputs)}
        return operands | {"saved": rng.random((rows, outputs)).astype(dtype), "activation": "sigmoid"}
    if kernel == "activate":
        return {"z": normal(rows, outputs), "activation": "sigmoid"}
    if kernel == "activation_backward":
        saved = rng.random((rows, outputs)).astype(dtype)
        return {"dy": normal(rows, outputs), "saved": saved, "activation": "sigmoid"}
    if kernel in ("softmax", "log_softmax"):
        return {"z": normal(rows, outputs)}
    prediction = "logits" if kernel.startswith(("cross", "binary")) else "prediction"
    goal = target(LOSSES[kernel].forms[-1], rows, outputs, rng, dtype)
    return {
        prediction: normal(rows, outputs),
        "target": goal,
        "sample_weight": rng.random(rows).astype(dtype),
    }


def arrays(result):
    """The arrays of a kernel's answer, which is one array or a tuple."""
    return list(result) if isinstance(result, tuple) else [result]
