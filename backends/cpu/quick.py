"""Small calls of the single kernels. What most of them bring, NumPy's arrays of one dtype whose shapes fit, is seen at
one look, and what goes with a rule is kept. Whatever is not seen to fit goes the way of all backends, which looks at
each argument and says what is wrong with it.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.backend import ELEMENTWISE, IDENTITY, Backend, State, line_of, values
from fusedmlp.kernels import activations, losses, optimizers
from fusedmlp.kernels.activations import Activation
from fusedmlp.kernels.losses import Loss, reduction_factor
from fusedmlp.kernels.optimizers import SLOTS, Hyperparameters
from fusedmlp.kernels.rules import kind

# What no machine shares out: a core does this much in less time than a hand-over to another thread takes (some 10 us).
SERIAL_FLOPS = 1e5

_FLOAT32, _FLOAT64, _INT64 = map(np.dtype, ("float32", "float64", "int64"))
_empty = np.empty


def alike(first: Any, *others: Any) -> np.dtype | None:
    """The dtype of arrays that kernels can take, and write, as they are. None where that is not seen."""
    if type(first) is not np.ndarray or not first.flags.carray:  # contiguous, aligned and writable
        return None
    dtype = first.dtype
    if dtype is not _FLOAT32 and dtype is not _FLOAT64:
        return None
    for array in others:
        if type(array) is not np.ndarray or array.dtype is not dtype or not array.flags.carray:
            return None
    return dtype


def apart(target: np.ndarray, *inputs: np.ndarray) -> bool:
    """Whether the target overlaps none of the inputs; two arrays that own their memory do not."""
    owns = target.flags.owndata
    for array in inputs:
        if array is target or (not (owns and array.flags.owndata) and np.may_share_memory(target, array)):
            return False
    return True


class _Known(threading.local):
    """Of each thread, by body, rule and dtype: what enters the body, and what it takes besides its arrays."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, np.dtype], tuple[Any, ...]] = {}


class Quick(Backend):
    """A backend on which small calls are quick.

    small  floating-point operations below which a call is one, which a thread then does by itself
    """

    small = SERIAL_FLOPS

    def __init__(self) -> None:
        super().__init__()
        self._known = _Known()

    def by_itself(self, body: str, dtype: np.dtype) -> Callable[..., Any]:
        """What enters a body on this thread alone."""
        raise NotImplementedError

    def _learnt(self, body: str, name: str, dtype: np.dtype) -> tuple[Any, ...]:
        """What is known of a call from here on. Raises as all backends do for the name of no rule."""
        rest: tuple[Any, ...]
        none, line = self._none(dtype), line_of(dtype)
        if body == "step":
            rest = kind("updates", optimizers.REGISTRY[name]), line
        elif body == "loss":
            loss, rows = losses.get(name), int(self.small / ELEMENTWISE)
            each = self._scratch("losses", dtype, rows).reshape(rows, 1)
            rest = none, self._none(_INT64), each, kind("losses", loss), values(loss, dtype)
        else:
            rule = activations.get(name)
            number, p = kind("activations", rule), values(rule, dtype)
            if body == "forward":
                rest = none, rule.saves == "preactivation", number, rule.scope == "row", p, line
            else:
                rest = self._scratch("panel", dtype, int(self.small / 4)), number, p, line
        known = self._known.calls[body, name, dtype] = self.by_itself(body, dtype), *rest
        return known

    def dense_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        activation: str | Activation = "identity",
        *,
        out: Array | None = None,
        return_saved: bool = False,
        precision: str | None = None,
    ) -> Any:
        dtype = alike(x, weight) if bias is None else alike(x, weight, bias)
        if dtype is not None and precision is None and type(activation) is str and x.ndim == weight.ndim == 2:
            (rows, inputs), (outputs, taken) = x.shape, weight.shape
            shape = rows, outputs
            if (
                taken == inputs
                and (bias is None or bias.shape == (outputs,))
                and (
                    out is None
                    or (
                        alike(x, out) is not None
                        and out.shape == shape
                        and apart(out, x, weight, x if bias is None else bias)
                    )
                )
                and 0 < 2 * rows * inputs * outputs < self.small
            ):
                key = "forward", activation, dtype
                enter, none, keeps, number, by_row, p, line = self._known.calls.get(key) or self._learnt(*key)
                y = _empty(shape, dtype) if out is None else out
                keep = return_saved and keeps
                saved = _empty(shape, dtype) if keep else y
                b = none if bias is None else bias
                enter(x, weight, b, y, saved, keep, number, by_row, IDENTITY, p, line)
                return (y, saved) if return_saved else y
        way = super().dense_forward
        return way(x, weight, bias, activation, out=out, return_saved=return_saved, precision=precision)

    def dense_backward(
        self,
        dy: Array,
        x: Array,
        weight: Array,
        saved: Array,
        activation: str | Activation,
        *,
        need_dx: bool = True,
        precision: str | None = None,
    ) -> tuple[Array | None, Array, Array]:
        dtype = alike(dy, x, weight, saved)
        if dtype is not None and precision is None and type(activation) is str and x.ndim == weight.ndim == 2:
            (rows, inputs), (outputs, taken) = x.shape, weight.shape
            shape = rows, outputs
            if (
                taken == inputs
                and dy.shape == shape
                and saved.shape == shape
                and 0 < 4 * rows * inputs * outputs < self.small
            ):
                key = "backward", activation, dtype
                enter, panel, number, p, line = self._known.calls.get(key) or self._learnt(*key)
                dx = _empty((rows if need_dx else 0, inputs), dtype)
                dweight, dbias = _empty((outputs, inputs), dtype), _empty(outputs, dtype)
                enter(dy, x, weight, saved, panel, dx, dweight, dbias, number, IDENTITY, p, line)
                return (dx if need_dx else None), dweight, dbias
        return super().dense_backward(dy, x, weight, saved, activation, need_dx=need_dx, precision=precision)

    def cross_entropy(
        self, logits: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        if (
            type(target) is np.ndarray
            and target.dtype is _INT64
            and target.flags.carray
            and sample_weight is None
            and alike(logits) is not None
            and logits.ndim == 2
            and target.shape == (len(logits),)
        ):
            found = self._small_loss(losses.cross_entropy, logits, logits, target, reduction)
            if found is not None and not math.isnan(found[0]):  # which an index that is no class makes it
                return found
        return super().cross_entropy(logits, target, reduction=reduction, sample_weight=sample_weight)

    def _element_loss(
        self, rule: Loss, name: str, prediction: Array, target: Array, reduction: str, sample_weight: Array | None
    ) -> tuple[Array, Array]:
        if (
            sample_weight is None
            and not rule.parameters
            and alike(prediction, target) is not None
            and prediction.ndim == 2
            and prediction.shape == target.shape
        ):
            found = self._small_loss(rule, prediction, target, None, reduction)
            if found is not None:
                return found
        return super()._element_loss(rule, name, prediction, target, reduction, sample_weight)

    def _small_loss(
        self, rule: Loss, a: Array, truth: Array, labels: Array | None, reduction: str
    ) -> tuple[Array, Array] | None:
        (rows, columns), dtype = a.shape, a.dtype
        if not 0 < ELEMENTWISE * rows * columns < self.small or type(reduction) is not str:
            return None
        if reduction != "mean" and reduction != "sum":
            return None
        key = "loss", rule.name, dtype
        enter, none, no_labels, each, number, p = self._known.calls.get(key) or self._learnt(*key)
        gradient, total = _empty((rows, columns), dtype), _empty(1, dtype)
        factor = reduction_factor(rule, reduction, rows, columns)
        given = no_labels if labels is None else labels
        enter(a, truth, given, gradient, each, total, none, factor, False, number, p)
        return total.reshape(()), gradient

    def update_inplace(self, optimizer: Hyperparameters, parameter: Array, gradient: Array, state: State) -> None:
        dtype = alike(parameter, gradient)
        if dtype is not None and type(state) is State and state.dtype is dtype:
            rule, shape = optimizer.update_rule(), parameter.shape
            if (
                state.rule is rule
                and gradient.shape == shape
                and state.shape == shape
                and 0 < ELEMENTWISE * parameter.size < self.small
                and apart(parameter, gradient)
            ):
                key = "step", rule.name, dtype
                enter, number, line = self._known.calls.get(key) or self._learnt(*key)
                w = parameter.ravel()
                s0, s1, s2 = state.vectors or (w,) * SLOTS
                enter(gradient.ravel(), w, s0, s1, s2, number, state.scalars(optimizer), line)
                state.steps += 1
                return
        super().update_inplace(optimizer, parameter, gradient, state)
