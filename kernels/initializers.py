"""The initial weights: for each way of drawing them, its formula, once.

I is the number of a layer's inputs, O that of its outputs. Everything is drawn in float64, by logical row and column,
so that a seed means the same weights on every backend and, but for the rounding, in every dtype.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusedmlp.kernels.program import Network
from fusedmlp.kernels.random import BIAS, WEIGHT, normal, stream, uniform

Draw = Callable[[int, int, tuple[int, ...], int, int], np.ndarray]


@dataclass(frozen=True)
class Initializer:
    """weight and bias: draw(inputs, outputs, shape, seed, stream) -> float64 of that shape."""

    name: str
    weight: Draw
    bias: Draw


def zero(inputs: int, outputs: int, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    return np.zeros(shape)


def uniform_by_inputs(inputs: int, outputs: int, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Uniform within ±1/sqrt(I): the default of torch.nn.Linear, for weight and bias."""
    return (2.0 * uniform(shape, seed, stream) - 1.0) / math.sqrt(inputs)


def he_normal(inputs: int, outputs: int, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Normal with variance 2/I: He, Zhang, Ren and Sun, "Delving deep into rectifiers", arXiv:1502.01852, eq. 10."""
    return normal(shape, seed, stream) * math.sqrt(2.0 / inputs)


def xavier_uniform(inputs: int, outputs: int, shape: tuple[int, ...], seed: int, stream: int) -> np.ndarray:
    """Uniform within ±sqrt(6/(I + O)): Glorot and Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010, eq. 16."""
    return (2.0 * uniform(shape, seed, stream) - 1.0) * math.sqrt(6.0 / (inputs + outputs))


REGISTRY: dict[str, Initializer] = {
    rule.name: rule
    for rule in (
        Initializer("torch", uniform_by_inputs, uniform_by_inputs),
        Initializer("he", he_normal, zero),
        Initializer("xavier", xavier_uniform, zero),
        Initializer("zeros", zero, zero),
    )
}


def get(init: str) -> Initializer:
    """The record of that name. ValueError for an unknown name, naming the valid ones."""
    if init not in REGISTRY:
        raise ValueError(f"init: unknown initialization {init!r}; expected one of {', '.join(REGISTRY)}")
    return REGISTRY[init]


def initial_parameters(network: Network, init: str, seed: int) -> dict[str, np.ndarray]:
    """Every parameter of the network by its name, as float64; seed from 0 to 2**64 - 1."""
    rule, made = get(init), {}
    for layer in range(network.layers):
        inputs, outputs = network.sizes[layer : layer + 2]
        made[f"{2 * layer}.weight"] = rule.weight(inputs, outputs, (outputs, inputs), seed, stream(WEIGHT, layer))
        if network.bias:
            made[f"{2 * layer}.bias"] = rule.bias(inputs, outputs, (outputs,), seed, stream(BIAS, layer))
    return made
