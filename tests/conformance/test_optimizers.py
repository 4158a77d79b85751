"""Every optimizer over 20 steps, compared after each of them."""

import copy
import pickle

import numpy as np
import pytest

import fusedmlp as fm
import oracle
from oracle import OPTIMIZER_CASES, OPTIMIZERS

ALL = pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=str)
SHAPES = pytest.mark.parametrize("shape", [(1,), (7, 5), (33,), (0,), (151, 67)], ids=oracle.extent)
STEPS = 20


def problem(shape, rng, dtype):
    """A parameter of three magnitudes, so that an update is seen beside it; some gradients are 0."""
    parameter = (rng.normal(size=shape) * rng.choice([0.0, 0.01, 1.0], shape)).astype(dtype)
    gradients = rng.normal(size=(STEPS, *shape)) * (rng.random((STEPS, *shape)) > 0.1)
    return parameter, gradients.astype(dtype)


@ALL
@SHAPES
def test_optimizer(backend, dtype, case, shape, rng):
    parameter, gradients = problem(shape, rng, dtype)
    expected = oracle.trajectory(case, parameter, gradients)
    optimizer = getattr(fm, case.name)(**case.options)
    state = backend.state(optimizer, parameter)
    for step, (gradient, right) in enumerate(zip(gradients, expected, strict=True), 1):
        before = gradient.copy()
        backend.update_inplace(optimizer, parameter, gradient, state)
        right.check(parameter, f"parameter after step {step}")
        np.testing.assert_array_equal(gradient, before)


@ALL
def test_optimizer_method_is_the_kernel(case, dtype, rng):
    """`optimizer.update_inplace` runs where the parameter lies: on the host, as `cpu` or `python` does."""
    parameter, gradients = problem((7, 5), rng, dtype)
    expected = oracle.trajectory(case, parameter, gradients)
    optimizer = getattr(fm, case.name)(**case.options)
    state = optimizer.init(parameter)
    for gradient in gradients:
        optimizer.update_inplace(parameter, gradient, state)
    expected[-1].check(parameter, "parameter")


@ALL
def test_optimizer_states_are_apart(backend, case, dtype, rng):
    """One optimizer, two parameters that take turns: each moves as if it were alone."""
    (one, steps), (other, _) = problem((5, 3), rng, dtype), problem((5, 3), rng, dtype)
    right = oracle.trajectory(case, one, steps)[-1], oracle.trajectory(case, other, -steps)[-1]
    optimizer = getattr(fm, case.name)(**case.options)
    states = optimizer.init(one), optimizer.init(other)
    for gradient in steps:
        backend.update_inplace(optimizer, one, gradient, states[0])
        backend.update_inplace(optimizer, other, -gradient, states[1])
    right[0].check(one, "first parameter")
    right[1].check(other, "second parameter")


@ALL
def test_optimizer_passes_nan_on(backend, case, dtype, rng):
    parameter, gradients = problem((4, 3), rng, dtype)
    gradients[0, 1, 2] = np.nan
    optimizer = getattr(fm, case.name)(**case.options)
    backend.update_inplace(optimizer, parameter, gradients[0], optimizer.init(parameter))
    assert np.argwhere(np.isnan(parameter)).tolist() == [[1, 2]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_defaults_are_pytorchs(name):
    """The oracle runs PyTorch's own defaults; this names the one that differs."""
    import torch

    theirs = OPTIMIZERS[name].make([torch.zeros(1)]).defaults
    ours = getattr(fm, name)()
    known = ("lr", "momentum", "nesterov", "weight_decay", "betas", "eps", "alpha", "centered")
    for option in (option for option in known if option in theirs):
        assert getattr(ours, option) == theirs[option], option


def test_optimizer_state_is_copied_and_kept(backend):
    """A checkpoint's state goes on as the one that it was made of."""
    optimizer, gradient = fm.Adam(0.1), np.ones(3, np.float32)
    parameters = [np.zeros(3, np.float32) for _ in range(3)]
    state = optimizer.init(parameters[0])
    backend.update_inplace(optimizer, parameters[0], gradient, state)
    parameters[1:] = [parameters[0].copy() for _ in range(2)]
    states = (state, copy.deepcopy(state), pickle.loads(pickle.dumps(state)))
    for parameter, kept in zip(parameters, states, strict=True):
        backend.update_inplace(optimizer, parameter, gradient, kept)
        np.testing.assert_array_equal(parameter, parameters[0])


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_optimizers_that_take_turns_on_one_state(backend, dtype, name, rng):
    """As a schedule of learning rates has it: each step is by the optimizer that is given, and it is that step's own,
    also when it was taken before, or long after the first."""
    optimizers = [getattr(fm, name)(lr=lr) for lr in (0.5, 0.25)]
    parameter, gradient = rng.normal(size=(2, 5)).astype(dtype)
    state = optimizers[0].init(parameter)
    for step in (0, 1, 2, 3, 200, 201, 1):
        state.steps = step
        alone, again = optimizers[step % 2].init(parameter), parameter.copy()
        alone.steps, alone.slots = step, tuple(slot.copy() for slot in state.slots)
        backend.update_inplace(optimizers[step % 2], again, gradient, alone)
        backend.update_inplace(optimizers[step % 2], parameter, gradient, state)
        np.testing.assert_array_equal(parameter, again)
        assert state.steps == step + 1
