"""NumPy: the layers as one writes them, one array expression after another; it does not train."""

from collections.abc import Callable

import numpy as np

from fusedmlp.benchmarks.cases import Case, initial_weights, random_data


def predictor(case: Case, threads: int) -> Callable[[], np.ndarray]:
    """Its BLAS takes its number of threads from the worker's environment."""
    given, (x, _) = initial_weights(case), random_data(case)
    layers = [(given[f"{2 * n}.weight"].T, given[f"{2 * n}.bias"]) for n in range(len(case.layers))]

    def predict() -> np.ndarray:
        y = x
        for weight, bias in layers[:-1]:
            y = np.maximum(y @ weight + bias, 0)
        weight, bias = layers[-1]
        return y @ weight + bias

    return predict
