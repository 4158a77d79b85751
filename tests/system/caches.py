"""What test_cache.py runs in processes of its own: `python caches.py scenario arguments` prints what it found."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from numba import njit, types

import fusedmlp as fm
from fusedmlp.backends.binder import Binder

Z = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)


def two_bindings(folder, digest, *order):
    """A body bound with two sets of words, from two folders: [sums, cache hits] of each, called in that order."""
    from fusedmlp.backends.cpu import compiling, words
    from fusedmlp.kernels.dense import accumulate_span

    options = dict(compiling.ENTRY)
    array, readonly = types.Array(types.float32, 1, "C"), types.Array(types.float32, 1, "C", readonly=True)
    found = {}
    for name in order:
        first = {"all": 0, "rest": 1}[name]
        words_of = words.WORDS | {"lane": words.constant(first)}
        binder = Binder(words_of, lambda function, thin: njit(cache=not thin, **options)(function), Path(folder, name))
        binder.digest = binder.digest if digest == "digest" else digest
        dispatcher = binder.bind(accumulate_span)
        dispatcher.compile((types.int64, readonly, array))
        dispatcher.disable_compile()
        sums = np.zeros(4, np.float32)
        dispatcher(0, np.ones(4, np.float32), sums)
        found[name] = [sums.tolist(), sum(dispatcher.stats.cache_hits.values())]
    return found


def product(digest):
    """How often the product under that digest came from disk."""
    from fusedmlp.backends.cpu.product import load

    return load("float32", digest).cache_hits


def step(*names):
    """What each backend makes of Z in a step of Adam with gradient Z, and whether the compiled one came from disk."""
    found, optimizer = {}, fm.Adam(lr=0.5)
    for name in names:
        parameter = Z.copy()
        fm.get_backend(name).update_inplace(optimizer, parameter, Z, optimizer.init(parameter))
        found[name] = parameter.tolist()
    dispatcher = fm.get_backend("cpu").dispatcher("step", np.dtype("float32"))
    return found | {"hits": sum(dispatcher.stats.cache_hits.values())}


def four_kernels():
    """Whether four kernels, one of which multiplies, are right, and the warnings that they gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend, right = fm.get_backend("cpu"), []
        for dtype in (np.float32, np.float64):
            parameter, optimizer = Z.astype(dtype), fm.SGD(lr=1.0)
            backend.update_inplace(optimizer, parameter, parameter.copy(), optimizer.init(parameter))
            right.append((parameter == 0).all())
        right.append(np.allclose(backend.activation_backward(Z, Z, "tanh"), Z * (1 - Z * Z), rtol=1e-5))
        right.append(np.allclose(backend.dense_forward(Z, Z), Z @ Z.T, rtol=1e-5))
    return {
        "right": [bool(one) for one in right],
        "warnings": [[warning.category.__name__, str(warning.message)] for warning in caught],
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
