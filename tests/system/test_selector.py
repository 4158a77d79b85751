"""Which backend runs: by name, by the environment, by where the arrays lie; and what cannot be met says so."""

import os

import numpy as np
import pytest

import fusedmlp as fm
import processes
from fusedmlp import backends
from fusedmlp.backends import backend_of
from fusedmlp.backends.cpu.threads import most_at_once
from fusedmlp.backends.cuda import driver
from fusedmlp.backends.plan import Rates
from fusedmlp.kernels import program


class Elsewhere:
    """An array of another library on some device, as far as anybody may look who does not belong there."""

    def __init__(self, kind, number=0):
        self._device = kind, number

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, **options):
        raise AssertionError("an array on another device was read")


CUDA = 2
ROCM = 10


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("FUSEDMLP_BACKEND", raising=False)


BACKEND = "FUSEDMLP_BACKEND"


def dense_arguments(dtype="float32"):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=size).astype(dtype) for name, size in (("x", (6, 4)), ("weight", (5, 4)), ("bias", 5))
    }


# By name.


def test_backends_by_name():
    assert fm.available_backends()[:2] == ("python", "cpu")
    for name in ("python", "cpu"):
        backend = fm.get_backend(name)
        assert backend.name == name
        assert backend.device == "cpu"
        assert fm.get_backend(name) is backend


@pytest.mark.parametrize("missing, name", [(None, "cuda"), ("there is no NVIDIA driver", "cpu")], ids=str)
def test_auto_is_cuda_where_a_device_can_be_used(monkeypatch, missing, name):
    monkeypatch.setattr(driver, "absence", lambda: missing)
    assert backends.chosen() == (name, "a device can be used" if missing is None else f"no cuda: {missing}")
    monkeypatch.setenv("FUSEDMLP_BACKEND", "python")
    assert backends.chosen() == ("python", "FUSEDMLP_BACKEND=python")


@pytest.mark.parametrize("name", ["", "CPU", "tpu", "numpy"])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"backend: unknown backend .*; expected one of auto, python, cpu, cuda"):
        fm.get_backend(name)


def test_cuda_where_there_is_none():
    if "cuda" in fm.available_backends():
        pytest.skip("there is one")
    for call in (lambda: fm.get_backend("cuda"), lambda: fm.MLP([2, 3], backend="cuda")):
        with pytest.raises(fm.BackendUnavailable, match=r"'cuda' is not available: .+backend='cpu'"):
            call()
    assert issubclass(fm.BackendUnavailable, RuntimeError)


# By the environment, which is read at each call.


def test_environment_is_read_at_call_time(monkeypatch):
    for name in ("python", "cpu", "python"):
        monkeypatch.setenv("FUSEDMLP_BACKEND", name)
        assert fm.get_backend().name == name
        assert backend_of({"x": np.ones(3)}).name == name
        assert fm.MLP([2, 3])._backend.name == name
    monkeypatch.setenv("FUSEDMLP_BACKEND", "")
    assert fm.get_backend().name == "cpu"


def test_explicit_name_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("FUSEDMLP_BACKEND", "python")
    assert fm.get_backend("cpu").name == "cpu"
    assert fm.MLP([2, 3], backend="cpu")._backend.name == "cpu"


def test_environment_that_names_nothing(monkeypatch):
    monkeypatch.setenv("FUSEDMLP_BACKEND", "tpu")
    with pytest.raises(ValueError, match=r"FUSEDMLP_BACKEND: unknown backend 'tpu'"):
        fm.get_backend()


@pytest.mark.parametrize("call", [fm.get_backend, lambda: fm.MLP([2, 3])], ids=["get_backend", "MLP"])
def test_environment_that_cannot_be_met(monkeypatch, call):
    """The error names the variable, and what to write there."""
    monkeypatch.setattr(driver, "absence", lambda: "no device")
    monkeypatch.setenv("FUSEDMLP_BACKEND", "cuda")
    with pytest.raises(fm.BackendUnavailable) as caught:
        call()
    said = "FUSEDMLP_BACKEND: backend 'cuda' is not available: no device; FUSEDMLP_BACKEND=cpu needs none"
    assert str(caught.value) == said


def test_compiled_code_that_cannot_be_had(monkeypatch):
    """Without Numba's compiler, python is asked for where the caller asks: by an argument, or for single kernels by the
    variable."""
    monkeypatch.setattr(driver, "absence", lambda: "no device")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(fm.BackendUnavailable, match=r"^backend 'cpu' is .*; unset it, or use backend='python'$"):
        fm.MLP([2, 3])
    with pytest.raises(fm.BackendUnavailable, match=r"^arrays .*: backend 'cpu' .* or use FUSEDMLP_BACKEND=python$"):
        fm.softmax(np.ones((2, 3)))
    monkeypatch.setenv("FUSEDMLP_BACKEND", "python")
    assert fm.softmax(np.ones((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("name", ["python", "cpu"])
def test_kernels_follow_the_environment(monkeypatch, name):
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(2, 12, 500)).astype(np.float32)
    monkeypatch.setenv("FUSEDMLP_BACKEND", name)
    launched = []
    backend = fm.get_backend(name)
    backend.workers_for(1e9)  # for which a machine is measured, by launches
    monkeypatch.setattr(backend, "launch", lambda body, *rest: launched.append(body))
    fm.dense_forward(x, weight)
    fm.dense_backward(x[:, :12].copy(), x, weight, x[:, :12].copy(), "sigmoid")
    fm.mse(x, weight)
    fm.softmax(x)
    optimizer = fm.SGD()
    optimizer.update_inplace(x, weight, optimizer.init(x))
    assert launched == ["forward", "backward", "loss", "apply", "step"]


@pytest.mark.parametrize("value", ["tpu", "CPU"])
def test_kernels_refuse_an_environment_that_names_nothing(monkeypatch, value):
    monkeypatch.setenv("FUSEDMLP_BACKEND", value)
    with pytest.raises(ValueError, match=rf"FUSEDMLP_BACKEND: unknown backend '{value}'"):
        fm.softmax(np.ones((2, 3), np.float32))


# By where the arrays lie.


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_mixed_devices_are_named(name):
    arguments = dense_arguments() | {name: Elsewhere(CUDA)}
    listed = ", ".join(f"{key} on {'cuda' if key == name else 'cpu'}" for key in arguments)
    for call in (lambda: fm.dense_forward(**arguments), lambda: fm.dense_forward(*arguments.values())):
        with pytest.raises(TypeError, match=f"expected all arrays on one device, got {listed}"):
            call()


def test_mixed_devices_with_out():
    with pytest.raises(TypeError, match="x on cpu, weight on cpu, bias on cpu, out on cuda"):
        fm.dense_forward(**dense_arguments(), out=Elsewhere(CUDA))


def test_mixed_devices_of_an_update():
    optimizer, parameter = fm.Adam(), np.ones(3)
    with pytest.raises(TypeError, match="parameter on cpu, gradient on cuda"):
        optimizer.update_inplace(parameter, Elsewhere(CUDA), optimizer.init(parameter))


@pytest.mark.parametrize("variable, value", [(BACKEND, "cpu"), (BACKEND, "tpu"), ("NUMBA_DISABLE_JIT", "1")])
def test_arrays_on_cuda_ask_for_its_backend(monkeypatch, variable, value):
    """The caller named no backend, so the remedy is one for arrays. What is said of the processor's does not count."""
    monkeypatch.setattr(driver, "absence", lambda: "no device")
    monkeypatch.setenv(variable, value)
    with pytest.raises(fm.BackendUnavailable) as caught:
        fm.softmax(Elsewhere(CUDA))
    assert str(caught.value) == (
        "arrays on a CUDA device: backend 'cuda' is not available: no device; a copy in the processor's memory needs "
        "none"
    )


def test_arrays_on_a_device_that_nobody_knows():
    with pytest.raises(TypeError, match=f"DLPack device {ROCM}"):
        fm.softmax(Elsewhere(ROCM))


@pytest.mark.parametrize("name", ["python", "cpu"])
@pytest.mark.parametrize("argument", ["x", "weight", "bias"])
def test_backend_of_the_processor_refuses_arrays_elsewhere(name, argument):
    """Never a silent copy from another device."""
    with pytest.raises(TypeError, match=f"{argument}: expected an array in the processor's memory, got one on cuda"):
        fm.get_backend(name).dense_forward(**dense_arguments() | {argument: Elsewhere(CUDA)})


# PyTorch's tensors, through DLPack.


def test_tensors_in_and_out():
    torch = pytest.importorskip("torch")
    arguments = dense_arguments()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arguments.items()}
    y, backprop = fm.dense(**tensors, activation="gelu")
    right, right_backprop = fm.dense(**arguments, activation="gelu")
    results = [(y, right), *zip(backprop(torch.ones_like(y)), right_backprop(np.ones_like(right)), strict=True)]
    labels = np.arange(6) % 5
    results += zip(fm.cross_entropy(y, torch.tensor(labels)), fm.cross_entropy(right, labels), strict=True)
    for got, expected in results:
        assert type(got) is torch.Tensor and got.device.type == "cpu"
        np.testing.assert_array_equal(got.numpy(), expected, strict=True)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), arguments[name])


def test_results_are_of_the_first_arguments_library():
    """Also where its class is the caller's own, or does not stand where its `from_dlpack` does."""
    torch = pytest.importorskip("torch")

    class Mine(torch.Tensor):
        pass

    assert isinstance(fm.activate(torch.ones(2, 3).as_subclass(Mine), "relu"), torch.Tensor)
    jax = pytest.importorskip("jax")
    assert isinstance(fm.activate(jax.numpy.ones((2, 3)), "relu"), jax.Array)


def test_tensor_out_and_update_are_written_in_place():
    torch = pytest.importorskip("torch")
    arguments = dense_arguments()
    tensors = {name: torch.from_numpy(array) for name, array in arguments.items()}
    out = torch.empty(6, 5)
    assert fm.dense_forward(**tensors, out=out) is out
    np.testing.assert_array_equal(out.numpy(), fm.dense_forward(**arguments))
    parameter, optimizer = torch.ones(3), fm.SGD(lr=0.5)
    optimizer.update_inplace(parameter, torch.ones(3), optimizer.init(parameter))
    assert parameter.tolist() == [0.5] * 3


def test_tensor_that_requires_grad():
    torch = pytest.importorskip("torch")
    for name in ("x", "weight", "bias"):
        tensors = {key: torch.from_numpy(array) for key, array in dense_arguments().items()}
        tensors[name].requires_grad_()
        with pytest.raises(TypeError, match=rf"{name}: .*pass {name}\.detach\(\)"):
            fm.dense_forward(**tensors)


def test_library_never_imports_torch():
    """A tensor's library is found through the tensor."""
    code = """
        import sys
        import numpy as np
        import fusedmlp as fm

        class Tensor:
            array = np.ones((2, 3), np.float32)
            def __dlpack__(self, **options): return self.array.__dlpack__(**options)
            def __dlpack_device__(self): return self.array.__dlpack_device__()

        print(fm.softmax(Tensor()).sum(), "torch" in sys.modules)
    """
    assert processes.python(code).split() == ["2.0", "False"]


# Threads.


@pytest.fixture
def threads():
    backend = fm.get_backend("cpu")
    before = backend.threads
    yield backend
    backend.threads = before


def test_set_num_threads(threads):
    network = program.Network((512, 512, 512), (fm.activations.relu,) * 2)
    for number in (3, 1, 2):
        fm.set_num_threads(number)
        assert threads.threads == number
        at_once = min(number, most_at_once())
        assert threads.workers_for(1e12) in (1, at_once)  # whether they pay, the measured scaling says
        assert threads.plan(network, np.dtype(np.float32), 512).workers in (1, at_once)
        assert f"up to {at_once} thread" in threads.describe()


def test_threads_beyond_the_processors_change_no_plan(threads, monkeypatch):
    """Three workers on two processors take as long as one: what two are given, three are given, by the same rates."""
    monkeypatch.setattr(threads, "_most_at_once", 2)
    doubled = Rates(flops=1e11, elements=2e10, scaling=2.0, seam=0.0, barrier=2e-7, handover=1e-5, transfer=2e10)
    monkeypatch.setattr(threads, "_rates", {2: doubled})
    network = program.Network((512, 512, 512), (fm.activations.relu,) * 2)
    for number in (2, 3, 4):
        fm.set_num_threads(number)
        assert threads.workers_for(1e12) == 2
        assert threads.plan(network, np.dtype(np.float32), 512).workers == 2


def test_most_at_once(monkeypatch):
    """Processors that are allowed, which are more than cores where a core has two; within the quota."""
    monkeypatch.setattr("fusedmlp.backends.cpu.threads._allowed", lambda: {0, 1, 2, 3})
    for quota, expected in ((None, 4), (8, 4), (3, 3)):
        monkeypatch.setattr("fusedmlp.backends.cpu.threads.cgroup_quota", lambda quota=quota: quota)
        assert most_at_once() == expected


@pytest.mark.parametrize("number", [0, -1])
def test_set_num_threads_value(threads, number):
    with pytest.raises(ValueError, match=f"n: expected a whole number of at least 1, got {number}"):
        fm.set_num_threads(number)


def test_more_threads_than_make_sense(threads):
    """Are refused before any is started: asked for by number, by the environment, or by a plan, whose workers are
    otherwise as many as it says."""
    most, layers = 16 * os.cpu_count(), ("out", "in")
    assert threads.most_workers == most
    fm.set_num_threads(most)
    for number in (most + 1, 10**6):
        with pytest.raises(ValueError, match=f"n: expected at most {most} on this machine, got {number}"):
            fm.set_num_threads(number)
        with pytest.raises(ValueError, match=f"plan: expected at most {most} workers on cpu, got {number}"):
            fm.MLP([3, 4, 2], backend="cpu", plan=fm.backends.Plan(number, layers))
    fm.set_num_threads(1)
    assert fm.MLP([3, 4, 2], backend="cpu", plan=fm.backends.Plan(most, layers)).plan(8).workers == most


@pytest.mark.parametrize("number", [2.0, "2", None, True])
def test_set_num_threads_type(threads, number):
    with pytest.raises(TypeError, match="n: expected a whole number of at least 1"):
        fm.set_num_threads(number)


THREADS = "import fusedmlp as fm; print(fm.get_backend('cpu').threads)"


def test_threads_from_the_environment():
    assert processes.python(THREADS, FUSEDMLP_NUM_THREADS=3) == "3\n"
    assert processes.python(THREADS, FUSEDMLP_NUM_THREADS="") == processes.python(THREADS, FUSEDMLP_NUM_THREADS=None)


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5"])
def test_threads_from_a_wrong_environment(value):
    process = processes.start("-c", THREADS, FUSEDMLP_NUM_THREADS=value)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"ValueError: FUSEDMLP_NUM_THREADS: expected a whole number of at least 1, got '{value}'" in errors


def test_too_many_threads_from_the_environment():
    process = processes.start("-c", THREADS, FUSEDMLP_NUM_THREADS=10**6)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"ValueError: FUSEDMLP_NUM_THREADS: expected at most {16 * os.cpu_count()} on this machine" in errors
