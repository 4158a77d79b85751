"""The door to the device, as far as it is seen without one. Why there is none: each cause has its own words, and
nothing heavy is imported to find it. Which workspace a product has. And what stands in for the door has its methods."""

import ctypes
import gc
import inspect
import os
import re
import subprocess
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import fusedmlp as fm
from fake_cublaslt import FakeCublasLt
from fusedmlp.backends.arrays import Memory
from fusedmlp.backends.cuda import driver
from fusedmlp.backends.cuda.driver import Driver
from fusedmlp.backends.cuda.products import Product
from fusedmlp.backends.cuda.workspaces import Workspaces
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


class Piece:
    """Memory that a weak reference can watch."""


@pytest.fixture
def pieces():
    """Workspaces for three streams, and a weak reference to each that was made."""
    made = []

    def make():
        piece = Piece()
        made.append(weakref.ref(piece))
        return piece

    return Workspaces(make, 3), made


def alive(made):
    gc.collect()
    return [number for number, piece in enumerate(made) if piece() is not None]


def test_workspaces_of_the_streams_used_last(pieces):
    workspaces, made = pieces
    first = workspaces(10)
    assert workspaces(10) is first and workspaces(11) is not first
    workspaces(12)
    assert workspaces(10) is first
    del first
    workspaces(13)
    assert alive(made) == [0, 2, 3], "the stream 11 was used before all others"
    workspaces(11)
    assert len(made) == 5 and alive(made) == [0, 3, 4]


def test_a_workspace_that_is_lent(pieces):
    """It is everybody's within, and lives as long as whoever keeps it; nothing is made within."""
    workspaces, made = pieces
    with workspaces.lent(10) as kept:
        assert workspaces(11) is kept and workspaces(10) is kept and len(made) == 1
    assert workspaces(10) is kept and workspaces(11) is not kept
    for stream in range(12, 20):
        workspaces(stream)
    assert alive(made) == [0, 7, 8, 9]
    del kept
    assert alive(made) == [7, 8, 9]
    with pytest.raises(KeyError), workspaces.lent(10):
        raise KeyError
    assert workspaces(19) is made[9]()


class FakeStream:
    """A stream of CuPy as far as the driver uses it; a capture ends with the addresses of workspaces that products were
    given within."""

    current = None

    def __init__(self, noted, ptr=1000, non_blocking=True):
        self.ptr, self._noted = ptr, noted

    def __enter__(self):
        self._before, FakeStream.current = FakeStream.current, self
        return self

    def __exit__(self, *_):
        FakeStream.current = self._before

    def begin_capture(self):
        assert self.ptr == 1000, "a stream of the caller's is captured"
        self._noted.clear()

    def end_capture(self):
        return SimpleNamespace(workspaces=[workspace for _, workspace in self._noted])


@pytest.fixture
def on_streams(monkeypatch):
    """A driver for products alone, what makes its streams current, and the (stream, workspace) of each product."""
    noted = []

    class Noting(FakeCublasLt):
        def matmul(self, *arguments):
            noted.append((arguments[-1], arguments[-3]))

    library = Noting()
    monkeypatch.setattr(driver, "library", lambda: library)
    monkeypatch.setattr(Driver, "WORKSPACE", 1024)
    made = object.__new__(Driver)
    made.memory, made._lock = Memory(), threading.RLock()
    made._cupy = SimpleNamespace(
        get_current_stream=lambda: FakeStream.current, Stream=lambda non_blocking: FakeStream(noted)
    )
    made._workspaces = Workspaces(lambda: aligned(made.WORKSPACE), made.STREAMS)
    return made, lambda ptr: FakeStream(noted, ptr), noted, library


def aligned(length):
    """So many bytes at a multiple of 256, as on a device."""
    raw = np.empty(length + 256, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + length]


PRODUCT = Product.of((2, 4), (4, 3), dtype=np.dtype(np.float32), precision="float32")


def test_products_on_many_streams(on_streams):
    """Each stream has a workspace of its own, of which few are kept; a product is planned once for all of them."""
    made, stream, noted, library = on_streams
    for ptr in range(3 * made.STREAMS):
        with stream(ptr):
            made.product(PRODUCT, 16, 16, 16)
    assert [ptr for ptr, _ in noted] == list(range(3 * made.STREAMS))
    assert len({workspace for _, workspace in noted[-made.STREAMS :]}) == made.STREAMS
    assert made._workspaces._of.cache_info().currsize == made.STREAMS
    assert library.calls["create"] == library.calls["matmul_algo_get_heuristic"] == 1


def test_a_graph_keeps_its_workspace(on_streams):
    """That of the stream on which it will run, though it is captured on another, and other streams come in between."""
    made, stream, noted, _ = on_streams
    with stream(1):
        made.product(PRODUCT, 16, 16, 16)
        ((_, own),) = noted
        graph = made.capture(lambda: made.product(PRODUCT, 16, 16, 16), True)
    assert graph.captured.workspaces == [own] == [made.memory.address(graph.workspace)]
    held = weakref.ref(graph.workspace)
    for ptr in range(2, 2 + made.STREAMS):
        with stream(ptr):
            made.product(PRODUCT, 16, 16, 16)
    gc.collect()
    assert held() is not None
    del graph
    gc.collect()
    assert held() is None


def test_a_graph_without_products_has_no_workspace(on_streams):
    made, stream, _, library = on_streams
    with stream(1):
        assert made.capture(lambda: None, False).workspace is None
    assert made._workspaces._of.cache_info().currsize == 0 and not library.calls


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
