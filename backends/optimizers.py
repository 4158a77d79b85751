"""The optimizers as callers see them: the rules of kernels/optimizers.py, and the two methods that need a backend."""

from typing import Any

import fusedmlp.backends  # which imports this module, and is complete when a method is called
from fusedmlp.backends.backend import State
from fusedmlp.kernels import optimizers as rules


class _Steps(rules.Hyperparameters):
    """Steps arrays that the caller holds, each with a state of its own."""

    def init(self, parameter: Any) -> State:
        """The state of one parameter, an array of any shape, float32 or float64, before its first step: slots of the
        same shape and dtype, zero. TypeError for anything else."""
        return fusedmlp.backends._state(self, parameter)

    def update_inplace(self, parameter: Any, gradient: Any, state: State) -> None:
        """One step, on the backend where the arrays lie. Writes `parameter`, of any shape, contiguous and writable,
        and `state`; `gradient` has the parameter's shape and dtype. TypeError for a wrong type or dtype, ValueError for
        a wrong shape, a parameter that is read-only, not contiguous or overlaps its gradient, and the state of another
        parameter or rule: before anything is written."""
        fusedmlp.backends._update_inplace(self, parameter, gradient, state)


class SGD(_Steps, rules.SGD):
    """w -= lr v, v = momentum v + g, as torch.optim.SGD; with `nesterov`, w -= lr (g + momentum v).

    lr, momentum, weight_decay  finite and at least 0
    nesterov                    True needs a momentum above 0

    TypeError or ValueError for anything else.
    """


class Adam(_Steps, rules.Adam):
    """Adam (Kingma and Ba, arXiv:1412.6980) as torch.optim.Adam; `weight_decay` is added to the gradient.

    lr, eps, weight_decay  finite and at least 0
    betas                  two numbers of at least 0 and below 1

    TypeError or ValueError for anything else.
    """


class AdamW(_Steps, rules.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), as torch.optim.AdamW. Arguments as
    Adam's."""


class RMSprop(_Steps, rules.RMSprop):
    """RMSprop (Tieleman and Hinton, 2012) as torch.optim.RMSprop, `centered` or not, with or without momentum.

    lr, eps, weight_decay, momentum  finite and at least 0
    alpha                            at least 0 and below 1
    centered                         True or False

    TypeError or ValueError for anything else.
    """


_BY_NAME = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(optimizer: str | rules.Hyperparameters) -> rules.Hyperparameters:
    """The optimizer itself, or the one of that name with its defaults. TypeError for what is neither, ValueError for an
    unknown name, naming the valid ones."""
    if isinstance(optimizer, rules.Hyperparameters):
        return optimizer
    names = ", ".join(_BY_NAME)
    if not isinstance(optimizer, str):
        came = f"{optimizer!r:.60} of type {type(optimizer).__name__}"
        raise TypeError(f"optimizer: expected an optimizer, or one of {names}; got {came}")
    if optimizer not in _BY_NAME:
        raise ValueError(f"optimizer: unknown optimizer {optimizer!r}; expected one of {names}")
    return _BY_NAME[optimizer]()
