"""Why there is no device: each cause has its own words, and nothing heavy is imported to find it."""

import ctypes
import sys
from types import SimpleNamespace

import pytest

import fusedmlp as fm
from fusedmlp.backends.cuda import driver


def library(initialized, devices):
    """libcuda as far as it is asked."""

    def count(into):
        into._obj.value = devices
        return 0

    return SimpleNamespace(cuInit=lambda flags: initialized, cuDeviceGetCount=count)


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


CAUSES = [
    ({"cupy"}, no_library, "cupy is not installed; pip install 'fusedmlp"),
    ({"numba_cuda"}, no_library, "numba-cuda is not installed; pip install 'fusedmlp"),
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
