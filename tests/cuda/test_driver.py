"""The door to the device, as far as it is seen without one. Why there is none: each cause has its own words, and
nothing heavy is imported to find it. And what stands in for the door has its methods."""

import ctypes
import inspect
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

import fusedmlp as fm
from fusedmlp.backends.cuda import driver
from fusedmlp.backends.install import for_cuda


def library(initialized, devices):
    """libcuda as far as it is asked."""

    def count(into):
        into._obj.value = devices
        return 0

    return SimpleNamespace(cuInit=lambda flags: initialized, cuDeviceGetCount=count)


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


CAUSES = [
    ({"cupy"}, no_library, f"cupy is not installed; {re.escape(for_cuda())}; "),
    ({"numba_cuda"}, no_library, f"numba-cuda is not installed; {re.escape(for_cuda())}; "),
    (set(), no_library, "there is no NVIDIA driver"),
    (set(), lambda name: library(100, 0), r"cannot start \(CUDA error 100\); see what nvidia-smi says"),
    (set(), lambda name: library(0, 0), "shows no device; CUDA_VISIBLE_DEVICES"),
]


@pytest.mark.parametrize("missing, load, words", CAUSES, ids=map(str, range(len(CAUSES))))
def test_absence(monkeypatch, missing, load, words):
    monkeypatch.setattr(driver, "find_spec", lambda name: None if name in missing else object())
    monkeypatch.setattr(driver, "ctypes", SimpleNamespace(CDLL=load, c_int=ctypes.c_int, byref=ctypes.byref))
    monkeypatch.setattr(driver, "absence", driver.absence.__wrapped__)  # not what was found out before
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import would raise
    with pytest.raises(fm.BackendUnavailable, match=rf"'cuda' is not available: .*{words}.*backend='cpu'"):
        fm.get_backend("cuda")
    assert fm.available_backends() == ("python", "cpu")
    assert fm.get_backend().name == "cpu"


def test_packages_without_a_device(tmp_path):
    """numba-cuda as it is installed, a CuPy that shows when it is imported, and no device: the usual state of a machine
    that tests others' changes. An import says nothing, auto is cpu, and `fusedmlp info` names the cause."""
    pytest.importorskip("numba_cuda", reason="numba-cuda has no wheels for macOS")
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise ImportError('CuPy is imported where there is no device')\n")
    changes = {"CUDA_VISIBLE_DEVICES": "", "FUSEDMLP_BACKEND": "auto", "NUMBA_ENABLE_CUDASIM": "0"}
    changes["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def output(*command):
        done = subprocess.run(
            [sys.executable, "-W", "error", *command], env=os.environ | changes, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    assert output("-c", "import fusedmlp") == ""
    chosen = "import fusedmlp, sys; print(fusedmlp.get_backend().name, 'numba.cuda' in sys.modules)"
    assert output("-c", chosen) == "cpu False\n"
    said = output("-m", "fusedmlp", "info")
    assert re.search(r"cuda +not available: (there is no NVIDIA driver|the NVIDIA driver).*; backend='cpu'", said), said
    assert re.search(r"numba-cuda +\d", said), said


# By class of the door: what stands in for it, and what that has besides, for tests to ask.
STAND_INS = {
    driver.DeviceMemory: ("StandInMemory", {"check_idle", "moved"}),
    driver.Copier: ("StandInCopier", {"idle"}),
    driver.Driver: ("StandIn", set()),
}


def methods(kind):
    """The public methods and properties of a class, those that it inherits among them, by name: a method's parameters
    without annotations, and nothing of a property."""
    found = {}
    for name, member in inspect.getmembers_static(kind):
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            parameters = [] if isinstance(member, property) else inspect.signature(member).parameters.values()
            found[name] = [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]
    return found


@pytest.mark.parametrize("kind", STAND_INS)
def test_what_stands_in_has_the_same_methods(kind):
    """A method that one of the two lacks, or takes otherwise, would show on a device alone."""
    pytest.importorskip("numba_cuda", reason="numba-cuda has no wheels for macOS")
    import stand_in

    name, besides = STAND_INS[kind]
    expected, found = methods(kind), methods(getattr(stand_in, name))
    assert expected
    assert {method: taken for method, taken in found.items() if method not in besides} == expected
    assert besides <= set(found)
