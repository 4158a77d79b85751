"""Trainings beside PyTorch's, and how far they may part.

Rounding errors of a training walk at random, and the training itself amplifies or damps them; a bound worked out step
by step would be orders of magnitude away from what happens. But PyTorch in float32 rounds as often as we do, in
another order. So the worst distance so far between its float32 and its float64 run is a sample of the distance to
expect; in the first order it is proportional to u, which carries it over to float64. LAMBDA of them are allowed, as
for sums (tolerance.py), and beside them what one forward pass or one update errs by itself, which that sample may by
luck miss: a row's loss adds up at most sum(sizes) + rows terms of numbers up to 1 + loss, a parameter is rounded twice
a step.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import fusedmlp as fm
import oracle
from oracle import Case, Expected
from tolerance import LAMBDA, summation, unit_roundoff


@dataclass(frozen=True)
class Training:
    """What the oracle and the library are both asked to do; `start` are the parameters, `batches` row numbers."""

    sizes: list
    activation: Any
    output: str
    loss: str
    optimizer: Case
    x: np.ndarray
    y: np.ndarray
    batches: list
    start: dict = field(default_factory=dict)

    def oracle(self, dtype=torch.float64, device="cpu"):
        with torch.device(device):
            return oracle.train(
                self.sizes, self.activation, self.output, self.loss, self.optimizer, self.x, self.y, self.batches,
                self.start, dtype=dtype,
            )  # fmt: skip

    def expected(self, dtype, device="cpu"):
        """The losses of the steps, and each parameter at the end; PyTorch's float32 run is one on `device`."""
        losses, state = self.oracle()
        rough_losses, rough_state = self.oracle(torch.float32, device)
        share = LAMBDA * unit_roundoff(dtype) / unit_roundoff(np.float32)
        terms = sum(self.sizes) + max(map(len, self.batches))
        parted = np.maximum.accumulate(np.abs(rough_losses - losses))
        bound = share * parted + summation(dtype, terms, 1 + np.abs(losses))
        steps, parameters = len(self.batches), {}
        for name, value in state.items():
            apart = share * np.abs(rough_state[name] - value).max()
            own = summation(dtype, 2 * steps, np.abs(value).max())
            parameters[name] = Expected(value, np.broadcast_to(apart + own, value.shape), np.dtype(dtype))
        return Expected(losses, bound, np.dtype(np.float64)), parameters

    def model(self, backend, dtype, **changes):
        hidden = self.activation if isinstance(self.activation, list) else [self.activation] * (len(self.sizes) - 2)
        rules = [rule.rule(fm.activations) if isinstance(rule, Case) else rule for rule in hidden]
        options = {"activation": rules, "output": self.output, "init": self.start, "dtype": dtype} | changes
        return fm.MLP(self.sizes, backend=backend, **options)

    def stepper(self):
        return getattr(fm, self.optimizer.name)(**self.optimizer.options)

    def step_losses(self, model):
        """The loss of each step, each taken by a `fit` of its own, which goes on where the last one ended."""
        optimizer = self.stepper()
        options = {"loss": self.loss, "optimizer": optimizer, "epochs": 1, "shuffle": False, "progress": False}
        return np.array(
            [model.fit(self.x[rows], self.y[rows], batch_size=len(rows), **options).loss[0] for rows in self.batches]
        )

    def check(self, model, losses):
        expected, parameters = self.expected(model.state_dict()["0.weight"].dtype)
        expected.check(np.asarray(losses), "loss")
        for name, value in model.state_dict().items():
            parameters[name].check(value, name)


def in_turn(rows, batch_size, steps):
    """The batches of epochs in the rows' order, the last of each epoch short, until there are so many steps."""
    epoch = [np.arange(k, min(k + batch_size, rows)) for k in range(0, rows, batch_size)]
    return (epoch * (steps // len(epoch) + 1))[:steps]


def epoch_losses(losses, batches, steps_an_epoch):
    """The row-weighted means of each epoch's losses."""
    rows = np.array([len(batch) for batch in batches]).reshape(-1, steps_an_epoch)
    return (losses.reshape(rows.shape) * rows).sum(1) / rows.sum(1)
