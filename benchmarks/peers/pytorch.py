"""PyTorch: tensors made before the clock starts, subnormals flushed, one mode for each way to run a step.

eager     the defaults
foreach   eager, the optimizer over lists of tensors
fused     eager, the optimizer's fused kernel
compile   forward and loss (with their gradients) under torch.compile, the optimizer fused
loader    eager, the batches from a DataLoader
gradual   fused, subnormals not flushed

On a GPU also torch.compile's modes that capture CUDA graphs, by their names.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from typing import Any

import torch

from fusedmlp.benchmarks.cases import SGD, Case, Column, initial_weights, random_data
from fusedmlp.benchmarks.peers import DEADLY

GRAPHED = ("reduce-overhead", "max-autotune")
COMPILED = {"compile": "default", **{mode: mode for mode in GRAPHED}}
OPTIONS = {"foreach": {"foreach": True}} | {mode: {"fused": True} for mode in ("fused", "gradual", *COMPILED)}


def prepare(case: Case, column: Column, mode: str, threads: int) -> "PyTorch":
    """A model in the given mode, with this process's PyTorch set to `threads` threads."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(mode != "gradual")
    return PyTorch(case, column, mode)


def predictor(case: Case, threads: int) -> Callable[[], torch.Tensor]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    made = PyTorch(case, SGD, "eager")

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return made.model(made.x)

    return predict


class PyTorch:
    """Data and weights lie on `device`. With `autocast`, forward and backward multiply in that type."""

    def __init__(self, case: Case, column: Column, mode: str, device: str = "cpu", autocast: torch.dtype | None = None):
        self.case = case
        self.mode = mode
        self.x, self.y = (torch.from_numpy(array).to(device) for array in random_data(case))
        layers: list[torch.nn.Module] = []
        for inputs, outputs in case.layers:
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers[:-1])
        model.load_state_dict({key: torch.from_numpy(array) for key, array in initial_weights(case).items()})
        self.model = model.to(device)
        options = self.options(mode, column, device)
        if column.name == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                model.parameters(), column.lr, momentum=column.momentum, **options
            )
        else:
            self.optimizer = torch.optim.Adam(model.parameters(), column.lr, **options)
        measure = torch.nn.functional.mse_loss if case.loss == "mse" else torch.nn.functional.cross_entropy

        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return measure(model(x), y)

        def narrow_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # A weight is used once a step: nothing is gained by keeping what it was cast to, and graphs forbid it.
            with torch.autocast(device, autocast, cache_enabled=False):
                return loss(x, y)

        forward = narrow_loss if autocast else loss
        if mode in COMPILED:
            torch.compiler.reset()  # what it compiled for the case before
        self.loss = torch.compile(forward, dynamic=False, mode=COMPILED[mode]) if mode in COMPILED else forward
        self.batches: Iterable = list(zip(self.x.split(case.batch), self.y.split(case.batch), strict=True))
        if mode == "loader":
            data = torch.utils.data.TensorDataset(self.x, self.y)
            self.batches = torch.utils.data.DataLoader(data, case.batch, shuffle=False)

    def options(self, mode: str, column: Column, device: str) -> dict[str, Any]:
        """The optimizer's, beside its hyper-parameters."""
        return OPTIONS.get(mode, {})

    def first_losses(self, count: int) -> list[float]:
        return [self._step(x, y).item() for x, y in self._endless(count)]

    def run(self, steps: int) -> int:
        for x, y in self._endless(steps):
            self._step(x, y)
        return steps

    def kill(self) -> None:
        layers = [layer for layer in self.model if isinstance(layer, torch.nn.Linear)]
        for layer in layers[:-1]:
            torch.nn.init.constant_(layer.bias, DEADLY)

    def _endless(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`count` batches from the first on, epoch after epoch."""
        if self.mode != "loader":
            return islice(cycle(self.batches), count)
        epochs = -(-count // self.case.steps)
        return islice((pair for _ in range(epochs) for pair in self.batches), count)

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.mode in GRAPHED:
            torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
