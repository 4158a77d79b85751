"""Why there is no device: each cause has its own words, and nothing heavy is imported to find it."""

import ctypes
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
