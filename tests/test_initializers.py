"""The initial weights: their formulas, their independence of backend and dtype."""

import numpy as np
import pytest
from scipy import stats

import fusedmlp as fm
from fusedmlp.kernels import activations, initializers
from fusedmlp.kernels.initializers import initial_parameters
from fusedmlp.kernels.program import Network

SIZES = (300, 200, 100)
NAMES = ["torch", "he", "xavier", "zeros"]


def network(sizes=SIZES, bias=True):
    return Network(sizes, (activations.relu,) * (len(sizes) - 1), bias)


def extents(sizes=SIZES):
    return zip(("0", "2"), sizes[:-1], sizes[1:], strict=True)


def test_names():
    assert list(initializers.REGISTRY) == NAMES


@pytest.mark.parametrize("init", NAMES)
def test_names_shapes_and_dtype(init):
    made = initial_parameters(network(), init, 0)
    assert {name: array.shape for name, array in made.items()} == dict(network().parameters())
    assert {array.dtype for array in made.values()} == {np.dtype(np.float64)}
    assert initial_parameters(network(bias=False), init, 0).keys() == {"0.weight", "2.weight"}


def test_torch_default():
    """U(±1/sqrt(I)) for weight and bias, what torch.nn.Linear.reset_parameters works out to."""
    made = initial_parameters(network(), "torch", 1)
    for layer, inputs, _ in extents():
        for kind in ("weight", "bias"):
            scaled = (made[f"{layer}.{kind}"].ravel() * np.sqrt(inputs) + 1) / 2
            assert stats.kstest(scaled, "uniform").pvalue > 1e-4, (layer, kind)


def test_he():
    made = initial_parameters(network(), "he", 1)
    for layer, inputs, _ in extents():
        assert stats.kstest(made[f"{layer}.weight"].ravel() / np.sqrt(2 / inputs), "norm").pvalue > 1e-4
        assert not made[f"{layer}.bias"].any()


def test_xavier():
    made = initial_parameters(network(), "xavier", 1)
    for layer, inputs, outputs in extents():
        scaled = (made[f"{layer}.weight"].ravel() / np.sqrt(6 / (inputs + outputs)) + 1) / 2
        assert stats.kstest(scaled, "uniform").pvalue > 1e-4
        assert not made[f"{layer}.bias"].any()


def test_zeros():
    assert not any(array.any() for array in initial_parameters(network(), "zeros", 1).values())


@pytest.mark.parametrize("init", ["torch", "he", "xavier"])
def test_layers_seeds_and_kinds_are_apart(init):
    square = network((20, 20, 20))
    made = [initial_parameters(square, init, seed) for seed in (0, 1, 1 << 32)]
    numbers = np.concatenate([array.ravel() for one in made for array in one.values() if array.any()])
    assert len(np.unique(numbers)) == numbers.size


def test_an_element_depends_on_its_place_alone():
    """Not on the other layers, nor on the width of its own."""
    deep, wide = (initial_parameters(network(sizes), "torch", 3) for sizes in [(8, 4, 3, 2), (8, 6)])
    np.testing.assert_array_equal(deep["0.weight"], wide["0.weight"][:4])


@pytest.mark.parametrize("init", NAMES)
def test_same_on_every_backend(backend, dtype, init):
    model = fm.MLP([13, 7, 3], init=init, dtype=dtype, seed=9, backend=backend)
    expected = initial_parameters(network((13, 7, 3)), init, 9)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, expected[name].astype(dtype))


def test_unknown_name():
    with pytest.raises(
        ValueError, match="init: unknown initialization 'glorot'; expected one of torch, he, xavier, zeros"
    ):
        initial_parameters(network(), "glorot", 0)
