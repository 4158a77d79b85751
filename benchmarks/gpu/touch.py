"""Every kernel that is launched, once, on small arrays: what a tool that watches kernels is given to run."""

from itertools import product
from typing import Any

import numpy as np

import fusedmlp as fm
from fusedmlp.backends import Plan, entries
from fusedmlp.backends.cuda import backend as cuda_backend
from fusedmlp.benchmarks.ptxas import NEVER_LAUNCHED

SIZES, ROWS, BATCH = [5, 19, 3], 11, 4  # the last batch is short, and no width fills a tile
TILES = ("tiles", "tiles")
BLOCKS = 3  # that meet at barriers


def without_pool() -> None:
    """Each array is an allocation of its own, whose end a tool sees; a pool would hide it."""
    import cupy

    cupy.cuda.set_allocator(None)


def single_kernels(backend: Any, rng: np.random.Generator) -> list[Any]:
    """What they give, for activations that save y and z, and for one over rows."""

    def normal(*shape: int) -> Any:
        return backend.memory.to_device(rng.normal(size=shape).astype(np.float32))

    found: list[Any] = []
    for activation, most in product(("gelu", "softmax"), (cuda_backend.PRODUCTS_OF_A_LIBRARY, 1)):
        before, cuda_backend.PRODUCTS_OF_A_LIBRARY = cuda_backend.PRODUCTS_OF_A_LIBRARY, most
        try:
            x, dy = normal(ROWS, SIZES[0]), normal(ROWS, SIZES[1])
            y, backprop = backend.dense(x, normal(SIZES[1], SIZES[0]), normal(SIZES[1]), activation)
            found += [y, *backprop(dy), backend.activate(dy, activation)]
            found.append(backend.activation_backward(dy, y, activation))
        finally:
            cuda_backend.PRODUCTS_OF_A_LIBRARY = before
    labels = backend.memory.to_device(rng.integers(0, SIZES[1], ROWS))
    found += backend.cross_entropy(normal(ROWS, SIZES[1]), labels)
    found += backend.mse(normal(ROWS, SIZES[1]), normal(ROWS, SIZES[1]), reduction="none")
    parameter, optimizer = normal(*SIZES), fm.Adam()
    backend.update_inplace(optimizer, parameter, normal(*SIZES), backend.state(optimizer, parameter))
    return [*found, parameter]


def trainings(backend: Any, rng: np.random.Generator) -> list[Any]:
    """Parameters after an epoch in each way, a prediction, and a step by hand."""
    x, y = rng.normal(size=(ROWS, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], ROWS)
    found: list[Any] = []
    for plan in (
        Plan(BLOCKS, ("out", "in")),
        Plan(4, TILES, "instructions"),
        Plan(4, TILES, "instructions", ("library", "library")),
    ):
        model = fm.MLP(SIZES, activation="gelu", output="softmax", backend=backend, plan=plan)
        model.fit(x, y, loss="cross_entropy", epochs=2, batch_size=BATCH, progress=False)
        _, gradients = model.loss_and_gradients(x, y)
        model.update(gradients)
        found += [model(x), *model.parameters()]
    return found


def main() -> int:
    """0 where all were launched, and nothing that they made is NaN."""
    without_pool()
    backend: Any = fm.get_backend("cuda")
    launched: set[str] = set()
    launch = backend._driver.launch

    def noted(entry: str, *rest: Any) -> None:
        launched.add(entry)
        launch(entry, *rest)

    backend._driver.launch = noted
    try:
        rng = np.random.default_rng(7)
        found = [*single_kernels(backend, rng), *trainings(backend, rng)]
        wrong = sum(not np.isfinite(backend.memory.to_host(array)).all() for array in found)
    finally:
        del backend._driver.launch
    missed = sorted(set(entries.NAMES) - {*NEVER_LAUNCHED} - launched)
    if missed or wrong:
        print(f"never launched: {', '.join(missed) or 'none'}; {wrong} of {len(found)} arrays are not finite")
        return 1
    print(f"{len(launched)} kernels, {len(found)} arrays")
    return 0
