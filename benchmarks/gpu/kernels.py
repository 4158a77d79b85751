"""Single kernels: their times beside PyTorch's, in turns, and bytes and operations a second beside what the card did in
the same run.

A kernel is timed as a node of a captured graph, so that the host does not count; what a call costs the host is a row of
its own. Each result is first held against PyTorch's in float64.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fusedmlp as fm
from fusedmlp.benchmarks import device
from fusedmlp.benchmarks.explore import clocks, gpu, trainings
from fusedmlp.benchmarks.explore.ceilings import PRODUCT_SIZE
from fusedmlp.benchmarks.explore.gpu import Gpu
from fusedmlp.benchmarks.explore.notebook import Notebook, row_of
from fusedmlp.benchmarks.forms import PyTorch

FLOAT = 4  # bytes
LAYERS = ((64, 784, 128), (512, 1024, 1024), (4096, 4096, 4096))  # B, I, O
ROWS = ((512, 1000), (8192, 4096))  # B, C
PARAMETERS = (1 << 20, 1 << 24)
ADAM_FLOP = 12  # a parameter: two moments, a root, a quotient and the step
SOFTMAX_FLOP = 5  # an element
ROUNDS = 15
# Relative to the largest element: sums of up to 4096 terms, and 10 bits of mantissa.
ALLOWED = {"float32": 5e-5, "tf32": 5e-3}


@dataclass(frozen=True)
class Kernel:
    """What is timed.

    call(form, *arrays)  the work, in this library's words; `form` is the library or PyTorch's forms
    flop, nbytes         operations, and bytes that must be read and written at the least
    """

    name: str
    call: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    flop: float
    nbytes: float
    precision: str = "float32"


class Ours:
    """The library, whose dense layers multiply in `precision`."""

    def __init__(self, precision: str) -> None:
        self.backend = fm.get_backend("cuda")
        self.precision = precision

    def array(self, value: np.ndarray) -> Any:
        return self.backend.memory.to_device(value)

    def host(self, array: Any) -> np.ndarray:
        return self.backend.memory.to_host(array)

    def dense_forward(self, x: Any, weight: Any, bias: Any, activation: str) -> Any:
        return self.backend.dense_forward(x, weight, bias, activation, precision=self.precision)

    def dense_backward(self, dy: Any, x: Any, weight: Any, saved: Any, activation: str) -> Any:
        return self.backend.dense_backward(dy, x, weight, saved, activation, precision=self.precision)

    def __getattr__(self, kernel: str) -> Any:
        return getattr(self.backend, kernel)


class Theirs(PyTorch):
    """PyTorch on the device."""

    def __init__(self) -> None:
        import torch

        super().__init__(torch.get_num_threads())

    def array(self, value: np.ndarray) -> Any:
        return self.torch.from_numpy(value.copy()).to(trainings.DEVICE)

    def host(self, array: Any) -> np.ndarray:
        return array.cpu().numpy()


def layers() -> list[Kernel]:
    found = []
    for rows, inputs, outputs in LAYERS:
        rng = np.random.default_rng(0)
        x, dy = normal(rng, rows, inputs), normal(rng, rows, outputs)
        weight, bias = normal(rng, outputs, inputs) * np.float32(inputs**-0.5), normal(rng, outputs)
        saved = np.tanh(dy)
        products = 2.0 * rows * inputs * outputs
        operands = rows * inputs + outputs * inputs + outputs + rows * outputs
        for precision in ALLOWED:
            size = f"{rows}x{inputs}x{outputs}, {precision}"
            found.append(
                Kernel(f"dense_forward {size}", forward, (x, weight, bias), products, FLOAT * operands, precision)
            )
            both = FLOAT * (operands + rows * inputs + outputs * inputs + rows * outputs)
            found.append(
                Kernel(f"dense_backward {size}", backward, (dy, x, weight, saved), 2 * products, both, precision)
            )
    return found


def forward(form: Any, x: Any, weight: Any, bias: Any) -> Any:
    return form.dense_forward(x, weight, bias, "relu")


def backward(form: Any, dy: Any, x: Any, weight: Any, saved: Any) -> Any:
    return form.dense_backward(dy, x, weight, saved, "tanh")


def rows() -> list[Kernel]:
    found = []
    for count, classes in ROWS:
        rng = np.random.default_rng(1)
        logits, labels = normal(rng, count, classes), rng.integers(0, classes, count)
        size, elements = f"{count}x{classes}", count * classes
        nbytes = FLOAT * 2.0 * elements  # read and written once
        found += [
            Kernel(f"softmax {size}", lambda form, z: form.softmax(z), (logits,), SOFTMAX_FLOP * elements, nbytes),
            Kernel(
                f"cross_entropy {size}",
                lambda form, z, t: form.cross_entropy(z, t),
                (logits, labels),
                SOFTMAX_FLOP * elements,
                nbytes + 8 * count,
            ),
        ]
    return found


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def fault(kernel: Kernel, ours: Ours, theirs: Theirs, given: list[Any]) -> str:
    """What is wrong with our result; empty where it is right."""
    exact = [theirs.array(a.astype(np.float64) if a.dtype.kind == "f" else a) for a in kernel.arrays]
    expected, found = (
        [form.host(part) for part in (made if isinstance(made, tuple) else (made,))]
        for form, made in ((theirs, kernel.call(theirs, *exact)), (ours, kernel.call(ours, *given)))
    )
    for right, part in zip(expected, found, strict=True):
        error = float(np.abs(part - right).max() / np.abs(right).max())
        if not error <= ALLOWED[kernel.precision]:
            return f"off by {error:.1e} of the largest element"
    return ""


def replayed(capture: Callable[[Callable[[], Any]], Any], work: Callable[[], Any]) -> tuple[Any, str]:
    """`work` as a graph, and a remark where it cannot be captured and so is timed as it is."""
    work()
    try:
        return capture(work), ""
    except Exception as cause:
        return work, f"not captured: {type(cause).__name__}"


def capture_theirs(work: Callable[[], Any]) -> Any:
    if trainings.DEVICE != "cuda":
        return work
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # as PyTorch asks for before a capture
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def measure(notes: Notebook, door: Gpu, kernel: Kernel, ceilings: dict[str, float]) -> None:
    ours, theirs = Ours(kernel.precision), Theirs()
    theirs.torch.set_float32_matmul_precision("high" if kernel.precision == "tf32" else "highest")
    given, there = [*map(ours.array, kernel.arrays)], [*map(theirs.array, kernel.arrays)]
    wrong = fault(kernel, ours, theirs, given)

    def call() -> None:
        kernel.call(ours, *given)

    def call_theirs() -> None:
        kernel.call(theirs, *there)

    mine, remark = replayed(door.capture, call)
    peer, their_remark = replayed(capture_theirs, call_theirs)
    seconds, others = in_turns(door, mine, peer)
    times(notes, kernel.name, seconds, others, wrong, remark, their_remark)
    rates(notes, kernel, seconds, ceilings, wrong)
    notes.measured(kernel.name, "µs of the host a call", [taken * 1e6 for taken in door.host_times(call)])


def in_turns(door: Gpu, ours: Any, theirs: Any) -> tuple[list[float], list[float]]:
    """Seconds of each, ours, theirs, ours, theirs."""
    clock = clocks.clock_for(trainings.DEVICE)
    door.warm(ours)
    for _ in range(3):
        theirs()
    clock.synchronize()
    pairs = [(door.elapsed(ours), clock.elapsed(theirs)) for _ in range(ROUNDS)]
    first, second = zip(*pairs, strict=True)
    return list(first), list(second)


def times(
    notes: Notebook, name: str, seconds: list[float], others: list[float], wrong: str, remark: str, their_remark: str
) -> None:
    notes.measured(f"{name}: fusedmlp", "µs", [taken * 1e6 for taken in seconds], wrong, remark)
    notes.measured(f"{name}: PyTorch", "µs", [taken * 1e6 for taken in others], note=their_remark)
    ratios = [other / own for own, other in zip(seconds, others, strict=True)]
    notes.measured(f"{name}: PyTorch", "times fusedmlp", ratios)


def rates(notes: Notebook, kernel: Kernel, seconds: list[float], ceilings: dict[str, float], wrong: str) -> None:
    """Achieved, and as shares of the ceilings where the run has them."""
    best = sorted(seconds)[len(seconds) // 2]
    for unit, amount, ceiling in (("TFLOP/s", kernel.flop, kernel.precision), ("TB/s", kernel.nbytes, "copy")):
        share = f"{amount / best * 1e-12 / ceilings[ceiling]:.0%} of {ceiling}" if ceiling in ceilings else ""
        notes.measured(f"{kernel.name}: fusedmlp", unit, [amount / taken * 1e-12 for taken in seconds], wrong, share)


def ceilings_of(notes: Notebook) -> dict[str, float]:
    """What the section "device" of this run measured: TB/s of "copy", TFLOP/s of "float32" FMAs and "tf32" products."""
    rows = [row_of(json.loads(line)) for line in notes.file.read_text().splitlines()] if notes.file.exists() else []
    names = {
        "copy, device to device": "copy",
        "float32 FMA, Numba kernel": "float32",
        f"product {PRODUCT_SIZE}³ by PyTorch: tf32": "tf32",
    }
    return {
        names[row.name]: row.spread.p50 for row in rows if row.section == "device" and row.spread and row.name in names
    }


def updates(notes: Notebook, door: Gpu, count: int, ceilings: dict[str, float]) -> None:
    """Adam over one array; three steps are checked. Not captured: each step has scalars of its own."""
    rng = np.random.default_rng(2)
    parameter, gradient = normal(rng, count), normal(rng, count)
    kernel = Kernel(f"Adam, {count} parameters", lambda *_: None, (), ADAM_FLOP * count, 7.0 * FLOAT * count)
    ours, theirs = Ours("float32"), Theirs()
    own, slope = ours.array(parameter), ours.array(gradient)
    optimizer = fm.Adam(lr=1e-2)
    state = ours.backend.state(optimizer, own)

    def call() -> None:
        ours.backend.update_inplace(optimizer, own, slope, state)

    peer = theirs.optimizer("Adam", theirs.array(parameter), theirs.array(gradient))
    for _ in range(3):
        call()
        right = peer()
    error = float(np.abs(ours.host(own) - theirs.host(right)).max())
    wrong = "" if error <= 1e-5 else f"after three steps off by {error:.1e}"
    seconds, others = in_turns(door, call, peer)
    times(notes, kernel.name, seconds, others, wrong, "", "")
    rates(notes, kernel, seconds, ceilings, wrong)
    notes.measured(kernel.name, "µs of the host a call", [taken * 1e6 for taken in door.host_times(call)])


def explore(notes: Notebook) -> None:
    if remedy := device.lacking("scipy", "torch"):
        notes.failed("the kernels", ModuleNotFoundError(f"not installed: {remedy}"))
        return
    door, ceilings = gpu.Gpu(), ceilings_of(notes)
    for kernel in [*layers(), *rows()]:
        notes.attempt(kernel.name, measure, notes, door, kernel, ceilings)
    for count in PARAMETERS:
        notes.attempt(f"Adam, {count} parameters", updates, notes, door, count, ceilings)
