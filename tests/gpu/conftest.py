"""All tests here are for a device; tests/cuda/test_rehearsal.py runs them on what stands in for one."""

import sys
from pathlib import Path

import numpy as np
import pytest

from devices import LIBRARIES, get_device, torch_device

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "model"))  # trajectory.py


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device():
    """The backend, with room for everything."""
    found = get_device()
    yield found
    if hasattr(found.memory, "free"):
        found.memory.free = 1 << 30


@pytest.fixture
def torch_on(device):
    return torch_device()


@pytest.fixture(params=LIBRARIES)
def library(request, device):
    if request.param == "torch":
        torch_device()
    return LIBRARIES[request.param]()


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
