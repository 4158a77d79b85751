"""Fused dense-forward, activation and backprop kernels for multilayer perceptrons.

Each kernel is written once in Python and compiled by Numba for the CPU and for CUDA; a thin trainer uses
them.

    import fusedmlp as fm

    model = fm.MLP([784, 128, 10], activation="relu")
    model.fit(x, y, loss="cross_entropy", epochs=10)

This is the public face: nothing is defined here. A name is imported from its home when it is first used, so
`import fusedmlp` by itself loads neither NumPy nor Numba, compiles nothing and touches no device.
"""

import os

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "MLP", "History", "NonFiniteLoss", "batches",
    "SGD", "Adam", "AdamW", "RMSprop",
    "dense", "dense_forward", "dense_backward",
    "activations", "losses", "activate", "activation_backward", "softmax", "log_softmax",
    "mse", "half_mse", "mae", "huber", "cross_entropy", "binary_cross_entropy_with_logits",
    "BackendUnavailable", "available_backends", "get_backend", "set_num_threads", "warmup",
    "__version__",
]

_NAMES = {
    "fusedmlp.kernels": ("activations", "losses"),
    "fusedmlp.backends": (
        "BackendUnavailable", "available_backends", "get_backend", "set_num_threads", "warmup",
        "dense", "dense_forward", "dense_backward",
        "activate", "activation_backward", "softmax", "log_softmax",
        "mse", "half_mse", "mae", "huber", "cross_entropy", "binary_cross_entropy_with_logits",
        "SGD", "Adam", "AdamW", "RMSprop",
    ),
    "fusedmlp.model": ("MLP", "History", "NonFiniteLoss", "batches"),
}
# fmt: on
_HOME = {name: home for home, names in _NAMES.items() for name in names}

# Type checkers read the first branch, Python the second; tests/test_packaging.py holds the two together.
TYPE_CHECKING = False  # typing has this name too, but to import typing takes 10 ms
if TYPE_CHECKING:
    from fusedmlp.backends import (
        SGD,
        Adam,
        AdamW,
        BackendUnavailable,
        RMSprop,
        activate,
        activation_backward,
        available_backends,
        binary_cross_entropy_with_logits,
        cross_entropy,
        dense,
        dense_backward,
        dense_forward,
        get_backend,
        half_mse,
        huber,
        log_softmax,
        mae,
        mse,
        set_num_threads,
        softmax,
        warmup,
    )
    from fusedmlp.kernels import activations, losses
    from fusedmlp.model import MLP, History, NonFiniteLoss, batches
else:

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # What `from home import name` does: name may also be a submodule that nobody has imported yet.
        value = getattr(__import__(_HOME[name], fromlist=[name]), name)
        globals()[name] = value  # the next use does not come here
        return value


def __dir__() -> list[str]:
    return __all__


# In a checkout kernels/, backends/, model/ and benchmarks/ lie beside this folder, an installed copy has them
# inside it. There a foreign package `kernels` may lie beside it: pyproject.toml tells the two apart.
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if all(os.path.exists(os.path.join(_root, name)) for name in ("kernels", "pyproject.toml")):
    __path__.append(_root)
