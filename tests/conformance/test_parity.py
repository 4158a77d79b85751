"""Every backend has every kernel, under the name and with the signature of the package's own function."""

import inspect

import pytest

import fusedmlp as fm
from oracle import ACTIVATIONS, KERNELS, OPTIMIZERS

FUNCTIONS = ("dense", *KERNELS)
SIGNATURES = {
    "dense": "(x, weight, bias, activation, *, precision=None)",
    "dense_forward": "(x, weight, bias=None, activation='identity', *, out=None, return_saved=False, precision=None)",
    "dense_backward": "(dy, x, weight, saved, activation, *, need_dx=True, precision=None)",
    "activate": "(z, activation)",
    "activation_backward": "(dy, saved, activation)",
    "softmax": "(z)",
    "log_softmax": "(z)",
    "mse": "(prediction, target, *, reduction='mean', sample_weight=None)",
    "half_mse": "(prediction, target, *, reduction='mean', sample_weight=None)",
    "mae": "(prediction, target, *, reduction='mean', sample_weight=None)",
    "huber": "(prediction, target, *, reduction='mean', sample_weight=None, delta=1.0)",
    "cross_entropy": "(logits, target, *, reduction='mean', sample_weight=None)",
    "binary_cross_entropy_with_logits": "(logits, target, *, reduction='mean', sample_weight=None)",
    "update_inplace": "(optimizer, parameter, gradient, state)",
}


def plain_signature(function):
    """The signature without annotations."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", SIGNATURES)
def test_backend_has_kernel(backend, name):
    assert plain_signature(getattr(backend, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_package_has_kernel(name):
    function = getattr(fm, name)
    assert plain_signature(function) == SIGNATURES[name]
    assert function.__doc__


def test_backend_introduces_itself(backend):
    assert isinstance(backend.name, str) and backend.name
    assert isinstance(backend.device, str) and backend.device
    assert backend.name in backend.describe()


def test_oracle_has_a_row_for_every_rule():
    assert set(ACTIVATIONS) == set(fm.activations.REGISTRY)
    assert set(OPTIMIZERS) <= set(fm.__all__)
    assert set(KERNELS) <= set(fm.__all__)
