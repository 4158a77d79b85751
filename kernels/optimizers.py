"""The optimizers: for each, the update of one parameter, once.

A rule is one scalar function, `step(w, g, s0, s1, s2, h) -> (w, s0, s1, s2)`: parameter, gradient, up to three
slots of state (those that a rule does not keep come as 0 and are not stored), and h, the scalars of the step,
which the host works out in float64 for each step and rounds once to the compute dtype: in float32 the bias
correction 1 - 0.999**t would be off by 1.3e-5.

Formulas and defaults are those of torch.optim (PyTorch 2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusedmlp.kernels.records import finite, flag
from fusedmlp.kernels.vocabulary import sqrt

SCALARS = 9  # How many scalars a step hands to a rule; those that a rule does not name come as 0.
SLOTS = 3  # The most slots that a rule keeps.


@dataclass(frozen=True)
class Update:
    """The update rule of one parameter: its name, its formula, and how many slots of state it keeps."""

    name: str
    step: Callable[..., Any]
    slots: int


def store_step(w, g, s0, s1, s2, h):
    return g, s0, s1, s2


def sgd_step(w, g, s0, s1, s2, h):
    rate, decay = h[0], h[1]
    return w - rate * (g + decay * w), s0, s1, s2


def momentum_step(w, g, velocity, s1, s2, h):
    """v = momentum v + g; w -= of_g g + of_v v. Plain: of_g = 0, of_v = rate; Nesterov's: of_g = rate, of_v = rate
    times momentum."""
    decay, momentum, of_g, of_v = h[1], h[2], h[3], h[4]
    g = g + decay * w
    velocity = momentum * velocity + g
    return w - (of_g * g + of_v * velocity), velocity, s1, s2


def adam_step(w, g, mean, square, s2, h):
    """Kingma and Ba, arXiv:1412.6980, algorithm 1; `keep` is AdamW's decoupled decay (arXiv:1711.05101)."""
    rate, decay, beta1, rest1, beta2, rest2, growth, epsilon, keep = h
    w = keep * w
    g = g + decay * w
    mean = beta1 * mean + rest1 * g
    square = beta2 * square + rest2 * (g * g)
    return w - rate * mean / (growth * sqrt(square) + epsilon), mean, square, s2


def rmsprop_direction(g, variance, h):
    epsilon = h[4]
    return g / (sqrt(variance) + epsilon)


def rmsprop_square(g, square, h):
    alpha, rest = h[2], h[3]
    return alpha * square + rest * (g * g)


def rmsprop_step(w, g, square, s1, s2, h):
    """Tieleman and Hinton, "Lecture 6.5 - rmsprop", 2012."""
    rate, decay = h[0], h[1]
    g = g + decay * w
    square = rmsprop_square(g, square, h)
    return w - rate * rmsprop_direction(g, square, h), square, s1, s2


def rmsprop_momentum_step(w, g, square, velocity, average, h):
    """RMSprop with momentum, centered (Graves, arXiv:1308.0850, section 4.2) where `centered` is 1."""
    rate, decay, alpha, rest, momentum, centered = h[0], h[1], h[2], h[3], h[5], h[6]
    g = g + decay * w
    square = rmsprop_square(g, square, h)
    average = alpha * average + rest * g
    velocity = momentum * velocity + rmsprop_direction(g, square - centered * (average * average), h)
    return w - rate * velocity, square, velocity, average


STORE = Update("store", store_step, 0)
SGD_UPDATE = Update("sgd", sgd_step, 0)
MOMENTUM_UPDATE = Update("momentum", momentum_step, 1)
ADAM_UPDATE = Update("adam", adam_step, 2)
RMSPROP_UPDATE = Update("rmsprop", rmsprop_step, 1)
RMSPROP_MOMENTUM_UPDATE = Update("rmsprop_momentum", rmsprop_momentum_step, 3)

REGISTRY: dict[str, Update] = {
    rule.name: rule
    for rule in (STORE, SGD_UPDATE, MOMENTUM_UPDATE, ADAM_UPDATE, RMSPROP_UPDATE, RMSPROP_MOMENTUM_UPDATE)
}


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimizer is told once. `lr` and the others are unitless; `weight_decay` is added to the gradient
    as weight_decay times the parameter, except by AdamW."""

    lr: float = 1e-3

    def update_rule(self) -> Update:
        raise NotImplementedError

    def scalars(self, t: Any) -> tuple[Any, ...]:
        """The scalars of step t (counted from 1; a number or an array of them), in float64, in the order in which the
        rule reads them."""
        raise NotImplementedError

    def table(self, first: int, steps: int, dtype: np.dtype) -> np.ndarray:
        """The scalars of `steps` steps from step `first` on, a row for each, worked out in float64 and rounded once:
        (steps, SCALARS) of `dtype`. ValueError where one is beyond the range of `dtype`."""
        made = np.zeros((steps, SCALARS))
        for column, value in enumerate(self.scalars(np.arange(first, first + steps, dtype=np.float64))):
            made[:, column] = value
        with np.errstate(over="ignore"):
            rounded = made.astype(dtype)
        if not np.isfinite(rounded).all():
            raise ValueError(f"optimizer: expected hyper-parameters within the range of {dtype}, got {self}")
        return rounded

    def _settle(self, *names: str, below: float | None = None) -> None:
        """Makes Python floats of the fields named: finite, at least 0, and below `below`."""
        for name in names:
            number = finite(type(self).__name__, name, getattr(self, name), at_least=0, below=below)
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class SGD(Hyperparameters):
    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._settle("lr", "momentum", "weight_decay")
        flag("SGD", "nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("SGD: nesterov needs a momentum above 0, got momentum=0")

    def update_rule(self) -> Update:
        return MOMENTUM_UPDATE if self.momentum else SGD_UPDATE

    def scalars(self, t: Any) -> tuple[Any, ...]:
        of_g, of_v = (self.lr, self.lr * self.momentum) if self.nesterov else (0.0, self.lr)
        return (self.lr, self.weight_decay, self.momentum, of_g, of_v)


@dataclass(frozen=True)
class Adam(Hyperparameters):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        self._settle("lr", "eps", "weight_decay")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ValueError(f"{name}: betas must be two numbers, got {self.betas!r}")
        betas = tuple(finite(name, f"betas[{i}]", beta, at_least=0, below=1) for i, beta in enumerate(self.betas))
        object.__setattr__(self, "betas", betas)

    def update_rule(self) -> Update:
        return ADAM_UPDATE

    def scalars(self, t: Any) -> tuple[Any, ...]:
        beta1, beta2 = self.betas
        rate = self.lr / (1.0 - beta1**t)
        growth = (1.0 - beta2**t) ** -0.5  # of a root whose square started at 0: a factor, where a divisor costs more
        decay, keep = (0.0, 1.0 - self.lr * self.weight_decay) if self.decoupled else (self.weight_decay, 1.0)
        return (rate, decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2, growth, self.eps, keep)


@dataclass(frozen=True)
class AdamW(Adam):
    weight_decay: float = 1e-2

    decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSprop(Hyperparameters):
    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        self._settle("lr", "eps", "weight_decay", "momentum")
        self._settle("alpha", below=1)
        flag("RMSprop", "centered", self.centered)

    def update_rule(self) -> Update:
        return RMSPROP_MOMENTUM_UPDATE if self.momentum or self.centered else RMSPROP_UPDATE

    def scalars(self, t: Any) -> tuple[Any, ...]:
        centered = 1.0 if self.centered else 0.0
        return (self.lr, self.weight_decay, self.alpha, 1.0 - self.alpha, self.eps, self.momentum, centered)
