"""Which backends the suite runs on, and what every test may ask for.

FUSEDMLP_TEST_BACKENDS names the backends (python,cpu); with FUSEDMLP_REQUIRE_BACKENDS=1 one that is not
available fails its tests instead of skipping them. "simulator" is the CUDA backend
on the stand-in for a device of tests/stand_in.py.
"""

import math
import os

import numpy as np
import pytest

import fusedmlp as fm

BACKENDS = os.environ.get("FUSEDMLP_TEST_BACKENDS", "python,cpu").split(",")
# The product of a test's `shape` beyond which an interpreted backend leaves it to the compiled ones.
INTERPRETED = {"python": 10_000, "simulator": 10_000}


def pytest_collection_modifyitems(config, items):
    def too_large(item):
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        limit = INTERPRETED.get(parameters.get("backend"), math.inf)
        return math.prod(parameters.get("shape", (0,))) > limit

    config.hook.pytest_deselected(items=[item for item in items if too_large(item)])
    items[:] = [item for item in items if not too_large(item)]


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request):
    if request.param == "simulator":
        from stand_in import get_simulator

        return get_simulator()
    try:
        return fm.get_backend(request.param)
    except fm.BackendUnavailable as error:
        if os.environ.get("FUSEDMLP_REQUIRE_BACKENDS"):
            pytest.fail(f"required backend {request.param!r}: {error}")
        pytest.skip(str(error))


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
