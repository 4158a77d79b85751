"""JAX: the training written as its users write it, compiled by XLA.

scan   a whole epoch in one jit, lax.scan over batches that lie on the device
step   one step in one jit, called from Python

Weights are stored (I, O) and class targets become one-hot rows inside the step; stored (O, I), or with
`take_along_axis`, small, mnist and mid took the same time within the noise (2 AVX-512 cores, jax 0.10.2).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusedmlp.benchmarks.cases import SGD, Case, Column, initial_weights, random_data
from fusedmlp.benchmarks.peers import DEADLY

Tree = Any


def prepare(case: Case, column: Column, mode: str, threads: int) -> "Jax":
    """XLA takes its number of threads from the process (NPROC and the affinity that the worker set)."""
    jax.config.update("jax_platforms", "cpu")
    return Jax(case, column, mode)


def predictor(case: Case, threads: int) -> Callable[[], jax.Array]:
    made = prepare(case, SGD, "step", threads)
    logits = jax.jit(logits_function(jnp.float32))
    layers, x = made.state[0], made.x.reshape(case.rows, -1)
    return lambda: logits(layers, x).block_until_ready()


def logits_function(dtype: Any) -> Callable[..., jax.Array]:
    """(layers, x) -> float32 logits; the layers compute in `dtype`."""

    def dense(x: jax.Array, layer: Tree) -> jax.Array:
        weight, bias = layer
        return x @ weight.astype(dtype) + bias.astype(dtype)

    def logits(layers: Tree, x: jax.Array) -> jax.Array:
        x = x.astype(dtype)
        for layer in layers[:-1]:
            x = jax.nn.relu(dense(x, layer))
        return dense(x, layers[-1]).astype(jnp.float32)

    return logits


def loss_function(case: Case, dtype: Any = jnp.float32) -> Callable[..., jax.Array]:
    """(layers, x, y) -> the batch's mean loss. The layers compute in `dtype`, the loss in float32."""
    logits = logits_function(dtype)

    def loss(layers: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
        output = logits(layers, x)
        if case.loss == "mse":
            return jnp.mean((output - y) ** 2)
        chosen = jax.nn.one_hot(y, case.sizes[-1], dtype=output.dtype)
        return -jnp.sum(chosen * jax.nn.log_softmax(output)) / case.batch

    return loss


def step_function(case: Case, column: Column, dtype: Any = jnp.float32) -> Callable[[Tree, Tree], Tree]:
    """(state, (x, y)) -> (state, loss), with state = (layers, velocity) or (layers, mean, square, step)."""
    value_and_gradient = jax.value_and_grad(loss_function(case, dtype))
    over = jax.tree.map

    def sgd(state: Tree, batch: Tree) -> Tree:
        layers, velocity = state
        loss, gradient = value_and_gradient(layers, *batch)
        velocity = over(lambda v, g: column.momentum * v + g, velocity, gradient)
        return (over(lambda w, v: w - column.lr * v, layers, velocity), velocity), loss

    def adam(state: Tree, batch: Tree) -> Tree:
        layers, mean, square, step = state
        loss, gradient = value_and_gradient(layers, *batch)
        step = step + 1
        mean = over(lambda m, g: column.beta1 * m + (1 - column.beta1) * g, mean, gradient)
        square = over(lambda s, g: column.beta2 * s + (1 - column.beta2) * g * g, square, gradient)
        rate = column.lr / (1 - column.beta1**step)
        unbias = 1 / jnp.sqrt(1 - column.beta2**step)

        def update(w: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
            return w - rate * m / (jnp.sqrt(s) * unbias + column.epsilon)

        return (over(update, layers, mean, square), mean, square, step), loss

    return sgd if column.name == "sgd" else adam


class Jax:
    """The layers compute in `dtype`, from float32 weights; a scan's body holds `unroll` steps."""

    def __init__(self, case: Case, column: Column, mode: str, dtype: Any = jnp.float32, unroll: int = 1):
        self.case = case
        self.mode = mode
        x, y = random_data(case)
        self.x = jnp.asarray(x.reshape(case.steps, case.batch, -1))
        self.y = jnp.asarray(y.reshape(case.steps, case.batch, *y.shape[1:]))  # classes become int32
        given = initial_weights(case)
        layers = [
            (jnp.asarray(given[f"{2 * n}.weight"].T), jnp.asarray(given[f"{2 * n}.bias"]))
            for n in range(len(case.layers))
        ]
        slots = [jax.tree.map(jnp.zeros_like, layers) for _ in range(column.slots)]
        counter = [jnp.zeros((), jnp.float32)] if column.name == "adam" else []
        self.state: Tree = (layers, *slots, *counter)
        step = step_function(case, column, dtype)
        self.step = jax.jit(step, donate_argnums=0)
        self.epoch = jax.jit(lambda state, data: jax.lax.scan(step, state, data, unroll=unroll), donate_argnums=0)
        self.batches = [(self.x[k], self.y[k]) for k in range(case.steps)] if mode == "step" else []

    def first_losses(self, count: int) -> list[float]:
        order = np.arange(count) % self.case.steps
        if self.mode == "scan":
            self.state, losses = self.epoch(self.state, (self.x[order], self.y[order]))
            return losses.tolist()
        return [self._step(int(k)) for k in order]

    def run(self, steps: int) -> int:
        if self.mode == "scan":
            epochs = max(1, round(steps / self.case.steps))
            for _ in range(epochs):
                self.state, _ = self.epoch(self.state, (self.x, self.y))
            steps = epochs * self.case.steps
        else:
            for k in range(steps):
                self.state, _ = self.step(self.state, self.batches[k % self.case.steps])
        jax.block_until_ready(self.state)
        return steps

    def kill(self) -> None:
        layers, *state = self.state
        dead = [(weight, jnp.full_like(bias, DEADLY)) for weight, bias in layers[:-1]]
        self.state = ([*dead, layers[-1]], *state)

    def _step(self, k: int) -> float:
        self.state, loss = self.step(self.state, self.batches[k])
        return float(loss)
