"""Which backends the suite runs on, and what every test may ask for.

FUSEDMLP_TEST_BACKENDS names the backends (python,cpu); with FUSEDMLP_REQUIRE_BACKENDS set one that is not available
fails its tests instead of skipping them. "simulator" is the CUDA backend on the stand-in for a device of
tests/stand_in.py, which tests/cuda/test_conformance.py runs; tests/carried.py takes arrays to a device and back.
"""

import math
import os
import signal

import numpy as np
import pytest

import fusedmlp as fm
import handed_over
from carried import Carried
from fusedmlp.backends import entries

BACKENDS = os.environ.get("FUSEDMLP_TEST_BACKENDS", "python,cpu").split(",")
DEVICES = ("cuda", "simulator")
# The product of a test's `shape` beyond which an interpreted backend leaves it to the compiled ones.
INTERPRETED = {"python": 10_000}

# The simulator's shapes. Its tiles are 4 x 4, and the depth that is staged at once is 3: each ragged shape spans two
# tiles or more, and divides by neither. Beside them nothing but ones, nothing at all, what is tall, and what is wide.
RAGGED = {(7,), (7, 5), (7, 13), (7, 13, 5)}
SIMULATED = RAGGED | {(1,), (1, 1), (1, 1, 1), (33,), (33, 10), (33, 1, 9), (2, 101), (1, 9, 33)}
SIMULATED |= {(0,), (0, 1), (0, 4), (0, 5), (4, 0), (0, 4, 3), (3, 0, 4), (3, 4, 0), (0, 4, 5), (0, 0, 1)}


def pytest_configure(config):
    """A shell lets what it runs in the background ignore Ctrl-C, for which the tests of it would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]


def left_out(item):
    """Whether a row is not for its backend: its mark says that it is for a device, or for what is none, and why; or its
    shape is too large for one that is interpreted."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    backend, shape = parameters.get("backend"), parameters.get("shape", ())
    if item.get_closest_marker("host") and backend in DEVICES:
        return True
    if item.get_closest_marker("device") and backend not in DEVICES:
        return True
    if backend == "simulator":
        # What it runs is Python, which has a dtype from its arrays: float64 is seen at the ragged shapes, and in the
        # central differences. That a kernel computes in its dtype alone is for the compiled code's tests.
        return shape not in SIMULATED | {()} or (parameters.get("dtype") == "float64" and shape not in RAGGED)
    return math.prod(shape or (0,)) > INTERPRETED.get(backend, math.inf)


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request):
    if request.param == "simulator":
        from stand_in import get_simulator

        return Carried(get_simulator())
    try:
        found = fm.get_backend(request.param)
    except fm.BackendUnavailable as error:
        if os.environ.get("FUSEDMLP_REQUIRE_BACKENDS"):
            pytest.fail(f"required backend {request.param!r}: {error}")
        pytest.skip(str(error))
    return Carried(found) if request.param in DEVICES else found


@pytest.fixture
def typed(monkeypatch):
    """What an entry of the cpu backend takes on trust, that each argument is of its type, rank and layout, is looked
    at; what it is handed as addresses, before they are taken."""
    if "cpu" in BACKENDS:
        from fusedmlp.backends.cpu.backend import KEPT

        cpu = fm.get_backend("cpu")
        packed, alone = cpu.arguments, cpu.by_itself

        def look(body, dtype, given):
            names = [name for name in entries.parameters(body) if name not in KEPT.get(body, ())]
            handed_over.check(body, dtype, dict(zip(names, given[-len(names) :], strict=True)))

        def arguments(call):
            given = dict(zip(entries.parameters("run"), call.arguments(), strict=True))
            there = {name: value for name, value in given.items() if value is not None}  # x and result may come later
            handed_over.check("run", call.dtype, there)
            return packed(call)

        def by_itself(body, dtype):
            kept = cpu._own.entries
            if (body, dtype) not in kept:
                compiled = alone(body, dtype)

                def looking(*given):
                    look(body, dtype, given)
                    return compiled(*given)

                kept[body, dtype] = looking
            return kept[body, dtype]

        def by_a_gang(launch):
            # Before the launch, not around the entry: it would be in an interrupt's way, which may come when the entry
            # has run and nobody has its result.
            def looking(body, dtype, workers, arguments, results=None):
                look(body, dtype, arguments)
                return launch(body, dtype, workers, arguments, results)

            return looking

        monkeypatch.setattr(cpu, "arguments", arguments)
        monkeypatch.setattr(cpu, "by_itself", by_itself)
        for launch in ("_taking_part", "_by_others"):
            monkeypatch.setattr(cpu, launch, by_a_gang(getattr(cpu, launch)))
        for keeps_entries in ("_own", "_known"):
            monkeypatch.setattr(cpu, keeps_entries, type(getattr(cpu, keeps_entries))())


@pytest.fixture
def compiled(request):
    """Whether the backend runs compiled code, for which no size is too large."""
    return request.node.callspec.params["backend"] in ("cpu", "cuda")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
