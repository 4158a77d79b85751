"""Where and how the kernels run: the selector, and one sub-package for each backend.

Single kernels run where their arrays lie. A model runs on the backend that it names, else on the one that the
environment variable FUSEDMLP_BACKEND names, else on cuda where a device can be used, else on cpu. cuda has not yet run
on a device.
"""

if __name__ != "fusedmlp.backends":  # run inside the checkout, which would load every module a second time
    raise ImportError("there is no package `backends`: import `fusedmlp.backends`")

import functools
import inspect
import operator
import os
import threading
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from fusedmlp.backends import arrays
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.errors import BackendUnavailable, NonFinite
from fusedmlp.backends.optimizers import SGD, Adam, AdamW, RMSprop
from fusedmlp.backends.plan import Plan

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Asked",
    "BackendUnavailable",
    "NonFinite",
    "Plan",
    "RMSprop",
    "activate",
    "activation_backward",
    "available_backends",
    "backend_of",
    "binary_cross_entropy_with_logits",
    "chosen",
    "cross_entropy",
    "dense",
    "dense_backward",
    "dense_forward",
    "get_backend",
    "half_mse",
    "huber",
    "log_softmax",
    "mae",
    "mse",
    "set_num_threads",
    "softmax",
    "unavailable",
    "warmup",
]

NAMES = ("python", "cpu", "cuda")


class Asked(NamedTuple):
    """How a backend was asked for, as errors say it: `by` what, and how the same caller asks for `another`."""

    by: str
    another: str


ARGUMENT = Asked("backend", "backend={!r}")
VARIABLE = Asked("FUSEDMLP_BACKEND", "FUSEDMLP_BACKEND={}")
ON_DEVICE = Asked("arrays on a CUDA device", "a copy in the processor's memory")
ON_HOST = Asked("arrays in the processor's memory", VARIABLE.another)  # python runs their kernels if this names it


def available_backends() -> tuple[str, ...]:
    """The names of the backends that this machine can run."""
    return tuple(name for name in NAMES if unavailable(name) is None)


def unavailable(name: str, asked: Asked = ARGUMENT) -> str | None:
    """Why a backend cannot be used, and what would help the one who asked; None where it can."""
    if name == "cuda":
        cause = _no_device()
        return None if cause is None else f"{cause}; {asked.another.format('cpu')} needs none"
    if name == "cpu" and os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        instead = asked.another.format("python")
        return f"NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it, or use {instead}"
    return None


_made: dict[str, Backend] = {}
_making = threading.RLock()


def _renew_lock() -> None:
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # the thread that held it may be gone


def _make(name: str) -> Backend:
    """The one backend of that name in this process, whichever thread asks first."""
    with _making:
        if name not in _made:
            if name == "python":
                from fusedmlp.backends.python.backend import PythonBackend

                _made[name] = PythonBackend()
            elif name == "cpu":
                from fusedmlp.backends.cpu.backend import CpuBackend

                _made[name] = CpuBackend()
            else:
                from fusedmlp.backends.cuda.backend import CudaBackend

                _made[name] = CudaBackend()
        return _made[name]


def chosen(name: str = "auto", asked: Asked = ARGUMENT) -> tuple[str, str]:
    """(the backend's name, why it is that one) for what `get_backend` is given; its errors."""
    if not isinstance(name, str):
        raise TypeError(f"{asked.by}: expected one of auto, {', '.join(NAMES)}, got {name!r}")
    reason = "asked for"
    if name == "auto" and (variable := os.environ.get("FUSEDMLP_BACKEND")):
        name, asked, reason = variable, VARIABLE, f"FUSEDMLP_BACKEND={variable}"
    if name == "auto":
        missing = _no_device()
        name, reason = ("cuda", "a device can be used") if missing is None else ("cpu", f"no cuda: {missing}")
    if name not in NAMES:
        raise ValueError(f"{asked.by}: unknown backend {name!r}; expected one of auto, {', '.join(NAMES)}")
    cause = unavailable(name, asked)
    if cause is not None:
        by = "" if asked is ARGUMENT else f"{asked.by}: "
        raise BackendUnavailable(f"{by}backend {name!r} is not available: {cause}")
    return name, reason


def _no_device() -> str | None:
    from fusedmlp.backends.cuda.driver import absence

    return absence()


def get_backend(name: str = "auto") -> Backend:
    """The backend of that name, an object with every kernel under its public name.

    "auto" is FUSEDMLP_BACKEND where it is set, else cuda where a device can be used, else cpu. TypeError for what is
    no name, ValueError for an unknown one; BackendUnavailable, with cause and remedy, where an explicit choice cannot
    be met.
    """
    return _make(chosen(name)[0])


def backend_of(arguments: dict[str, Any]) -> Backend:
    """The backend for arrays that lie where these do. TypeError naming each where they lie on several devices."""
    device = arrays.common_device(arguments)
    if device == "cuda":
        return _make(chosen("cuda", ON_DEVICE)[0])
    if device != "cpu":
        raise TypeError(f"expected arrays in the processor's memory or on a CUDA device, got them on {device}")
    return _chosen_by(_ENVIRONMENT.get(_BACKEND), _ENVIRONMENT.get(_DISABLED))


# The environment by its keys, which `os.environ` reads too: for a variable that is not set that takes it 0.7 us.
_ENVIRONMENT = os.environ._data  # type: ignore[attr-defined]
_BACKEND, _DISABLED = map(os.environ.encodekey, ("FUSEDMLP_BACKEND", "NUMBA_DISABLE_JIT"))


@functools.cache
def _chosen_by(_backend: Any, _disabled: Any) -> Backend:
    """The backend for arrays in the processor's memory, chosen once for each value of the two variables: they are but
    keys, and what is chosen follows from the environment itself, as everywhere."""
    # cuda cannot address these arrays, so it does not count here; a name that is none is an error all the same.
    here = os.environ.get("FUSEDMLP_BACKEND") in (None, "", "auto", "cuda")
    return _make(chosen("cpu", ON_HOST)[0] if here else chosen()[0])


def set_num_threads(n: int) -> None:
    """The most threads that a call on the CPU uses from now on, 16 for each processor of the machine at most; a plan
    that is given has workers of its own number, and other work is shared out to no more than can run at once.
    FUSEDMLP_NUM_THREADS sets the number at the start; the default is the smallest of physical cores, allowed processors
    and the control group's quota."""
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: expected a whole number of at least 1, got {n!r}")
    if n < 1:
        raise ValueError(f"n: expected a whole number of at least 1, got {n}")
    cpu = get_backend("cpu")
    if cpu.most_workers is not None and n > cpu.most_workers:
        raise ValueError(f"n: expected at most {cpu.most_workers} on this machine, got {n}")
    cpu.threads = operator.index(n)


def warmup(dtype: Any = "float32") -> None:
    """Compiles what training, validation and inference on the CPU need for a dtype, or loads it from disk, and measures
    the machine where that was not done yet, so that the first call of a model does not wait."""
    get_backend("cpu").warm_up(arrays.float_dtype(dtype))  # type: ignore[attr-defined]


P = ParamSpec("P")
R = TypeVar("R")


def _dispatched(kernel: Callable[Concatenate[Backend, P], R]) -> Callable[P, R]:
    """A kernel of the backend where the arrays of its call lie: of the processor's, until one is met that lies
    elsewhere, as a look at each beforehand took 0.3 us."""
    signature = inspect.signature(kernel)
    own = signature.replace(parameters=list(signature.parameters.values())[1:])
    name, names = kernel.__name__, tuple(own.parameters)
    on_host: dict[Any, Callable[..., Any]] = {}

    @functools.wraps(kernel)
    def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
        variables = _ENVIRONMENT.get(_BACKEND), _ENVIRONMENT.get(_DISABLED)
        try:
            bound = on_host.get(variables)
            if bound is None:
                bound = on_host[variables] = getattr(_chosen_by(*variables), name)
        except (BackendUnavailable, ValueError):  # which is told to those whose arrays are in the processor's memory
            bound = None
        if bound is not None:
            try:
                return bound(*args, **kwargs)
            except arrays.Elsewhere:
                pass
        given = dict(zip(names, args, strict=False)) | kwargs
        return getattr(backend_of(given), name)(*args, **kwargs)

    dispatched.__signature__ = own  # type: ignore[attr-defined]
    dispatched.__module__ = "fusedmlp"
    return dispatched


dense = _dispatched(Backend.dense)
dense_forward = _dispatched(Backend.dense_forward)
dense_backward = _dispatched(Backend.dense_backward)
activate = _dispatched(Backend.activate)
activation_backward = _dispatched(Backend.activation_backward)
softmax = _dispatched(Backend.softmax)
log_softmax = _dispatched(Backend.log_softmax)
mse = _dispatched(Backend.mse)
half_mse = _dispatched(Backend.half_mse)
mae = _dispatched(Backend.mae)
huber = _dispatched(Backend.huber)
cross_entropy = _dispatched(Backend.cross_entropy)
binary_cross_entropy_with_logits = _dispatched(Backend.binary_cross_entropy_with_logits)

# Of backends/optimizers.py, whose optimizers are the first argument.
_state = _dispatched(Backend.state)
_update_inplace = _dispatched(Backend.update_inplace)
