"""The kernels as one writes them without fusion, one array expression after another, in NumPy and in PyTorch.

Both classes have the library's function names and arguments, as far as the micro-benchmarks use them: relu,
tanh and gelu; losses with reduction "mean". x (B, I), weight (O, I), bias (O,), y (B, O), C classes.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from scipy.special import erf

SQRT_HALF = 0.5**0.5
SQRT_TWO_PI = (2 * np.pi) ** 0.5


class Unfused:
    """What reads the same in both."""

    dense_forward: Callable[..., Any]
    activation_backward: Callable[..., Any]

    def dense_backward(self, dy, x, weight, saved, activation):
        dz = self.activation_backward(dy, saved, activation)
        return dz @ weight, dz.T @ x, dz.sum(0)

    def dense(self, x, weight, bias, activation):
        """For the activations whose `saved` is y."""
        y = self.dense_forward(x, weight, bias, activation)
        return y, lambda dy: self.dense_backward(dy, x, weight, y, activation)


class NumPy(Unfused):
    """Unfused NumPy."""

    name = "numpy"

    def array(self, value: np.ndarray) -> np.ndarray:
        return value.copy()

    def activate(self, z, activation):
        if activation == "relu":
            return np.maximum(z, 0)
        if activation == "tanh":
            return np.tanh(z)
        return 0.5 * z * (1 + erf(z * SQRT_HALF))

    def activation_backward(self, dy, saved, activation):
        """`saved` is z for gelu, else y."""
        if activation == "relu":
            return dy * (saved > 0)
        if activation == "tanh":
            return dy * (1 - saved * saved)
        density = np.exp(-0.5 * saved * saved) / SQRT_TWO_PI
        return dy * (0.5 * (1 + erf(saved * SQRT_HALF)) + saved * density)

    def dense_forward(self, x, weight, bias, activation):
        return self.activate(x @ weight.T + bias, activation)

    def softmax(self, z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def log_softmax(self, z):
        shifted = z - z.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def cross_entropy(self, logits, target):
        rows = np.arange(len(target))
        gradient = self.softmax(logits)
        gradient[rows, target] -= 1
        return -self.log_softmax(logits)[rows, target].mean(), gradient / len(target)

    def mse(self, prediction, target):
        error = prediction - target
        return (error * error).mean(), 2 * error / error.size

    def half_mse(self, prediction, target):
        error = prediction - target
        return 0.5 * (error * error).mean(), error / error.size

    def mae(self, prediction, target):
        error = prediction - target
        return np.abs(error).mean(), np.sign(error) / error.size

    def huber(self, prediction, target):
        error = prediction - target
        inside = np.abs(error) <= 1
        value = np.where(inside, 0.5 * error * error, np.abs(error) - 0.5)
        return value.mean(), np.where(inside, error, np.sign(error)) / error.size

    def binary_cross_entropy_with_logits(self, logits, target):
        value = np.maximum(logits, 0) - logits * target + np.log1p(np.exp(-np.abs(logits)))
        return value.mean(), (1 / (1 + np.exp(-logits)) - target) / logits.size

    def optimizer(self, name: str, parameter: np.ndarray, gradient: np.ndarray) -> Callable[[], Any]:
        """A call that does one step in place, with PyTorch's defaults; SGD has momentum 0.9."""
        lr, steps = 1e-2, count(1)
        first, second = np.zeros_like(parameter), np.zeros_like(parameter)

        def step():
            w, g = parameter, gradient
            if name == "SGD":
                first[:] = 0.9 * first + g
                w -= lr * first
            elif name == "RMSprop":
                first[:] = 0.99 * first + 0.01 * g * g
                w -= lr * g / (np.sqrt(first) + 1e-8)
            else:
                t = next(steps)
                if name == "AdamW":
                    w *= 1 - lr * 1e-2
                first[:] = 0.9 * first + 0.1 * g
                second[:] = 0.999 * second + 0.001 * g * g
                w -= lr / (1 - 0.9**t) * first / (np.sqrt(second) / (1 - 0.999**t) ** 0.5 + 1e-8)
            return parameter

        return step


class PyTorch(Unfused):
    """PyTorch's kernels, called as its autograd calls them; optimizers fused where it has a fused kernel."""

    name = "pytorch"

    def __init__(self, threads: int):
        import torch

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        self.torch = torch

    def array(self, value: np.ndarray) -> Any:
        return self.torch.from_numpy(value.copy())

    def activate(self, z, activation):
        return getattr(self.torch.nn.functional, activation)(z)

    def activation_backward(self, dy, saved, activation):
        """`saved` is z for gelu, else y."""
        backward = self.torch.ops.aten
        if activation == "relu":
            return backward.threshold_backward(dy, saved, 0)
        if activation == "tanh":
            return backward.tanh_backward(dy, saved)
        return backward.gelu_backward(dy, saved)

    def dense_forward(self, x, weight, bias, activation):
        return self.activate(self.torch.nn.functional.linear(x, weight, bias), activation)

    def softmax(self, z):
        return self.torch.softmax(z, 1)

    def log_softmax(self, z):
        return self.torch.log_softmax(z, 1)

    def cross_entropy(self, logits, target):
        return self._loss(self.torch.nn.functional.cross_entropy, logits, target)

    def mse(self, prediction, target):
        return self._loss(self.torch.nn.functional.mse_loss, prediction, target)

    def half_mse(self, prediction, target):
        return self._loss(lambda p, t: 0.5 * self.torch.nn.functional.mse_loss(p, t), prediction, target)

    def mae(self, prediction, target):
        return self._loss(self.torch.nn.functional.l1_loss, prediction, target)

    def huber(self, prediction, target):
        return self._loss(self.torch.nn.functional.huber_loss, prediction, target)

    def binary_cross_entropy_with_logits(self, logits, target):
        return self._loss(self.torch.nn.functional.binary_cross_entropy_with_logits, logits, target)

    def _loss(self, function, prediction, target):
        leaf = prediction.detach().requires_grad_()
        loss = function(leaf, target)
        (gradient,) = self.torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient

    def optimizer(self, name: str, parameter: Any, gradient: Any) -> Callable[[], Any]:
        """A call that does one step in place, as `NumPy.optimizer` does."""
        options: dict[str, Any] = {"foreach": True} if name == "RMSprop" else {"fused": True}
        if name == "SGD":
            options["momentum"] = 0.9
        leaf = parameter.requires_grad_()
        leaf.grad = gradient
        made = getattr(self.torch.optim, name)([leaf], lr=1e-2, **options)

        def step():
            made.step()
            return leaf.detach()

        return step


class Library:
    """This library on one backend, under the same names."""

    def __init__(self, backend: str, threads: int):
        import fusedmlp as fm

        fm.set_num_threads(threads)
        self.fm = fm
        self.name = backend
        self.backend = fm.get_backend(backend)

    def array(self, value: np.ndarray) -> np.ndarray:
        return value.copy()

    def __getattr__(self, kernel: str) -> Any:
        return getattr(self.backend, kernel)

    def optimizer(self, name: str, parameter: np.ndarray, gradient: np.ndarray) -> Callable[[], Any]:
        """A call that does one step in place, as `NumPy.optimizer` does.

        An optimizer runs where its arrays lie: FUSEDMLP_BACKEND must name this backend.
        """
        options = {"momentum": 0.9} if name == "SGD" else {}
        made = getattr(self.fm, name)(lr=1e-2, **options)
        state = made.init(parameter)

        def step():
            made.update_inplace(parameter, gradient, state)
            return parameter

        return step
