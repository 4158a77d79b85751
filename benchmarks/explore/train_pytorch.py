"""PyTorch on the device: eager, whole steps in a CUDA graph, and torch.compile with graphs of its own."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fusedmlp.benchmarks.cases import Case, Column
from fusedmlp.benchmarks.explore import trainings
from fusedmlp.benchmarks.explore.clocks import clock_for
from fusedmlp.benchmarks.explore.notebook import Notebook
from fusedmlp.benchmarks.explore.trainings import TASKS, Task
from fusedmlp.benchmarks.peers.pytorch import GRAPHED, PyTorch

SPANS = (1, 8)  # steps a graph
COMPILE_SECONDS = 30.0
WARM_STEPS = 3
Work = Callable[[], object]


class OutOfTime(BaseException):
    """No Exception, because torch.compile goes on after those."""


def precision(task: Task) -> torch.dtype | None:
    """Sets how float32 multiplies; the type for autocast."""
    torch.set_float32_matmul_precision("high" if task.precision == "tf32" else "highest")
    return torch.bfloat16 if task.precision == "bf16" else None


def capture(work: Work, pool: Any) -> Work:
    """What replays `work`, which must have run before; without a pool, on a processor, `work` itself."""
    if pool is None:
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph.replay


class Graphed(PyTorch):
    """Whole steps in graphs of `span` consecutive batches, one graph for each such part of the data, which it reads
    where it lies. `capture` makes them; a test without a GPU has its own."""

    def __init__(
        self,
        case: Case,
        column: Column,
        span: int,
        device: str,
        autocast: torch.dtype | None,
        capture: Callable[[Work, Any], Work] = capture,
    ):
        super().__init__(case, column, "graph", device, autocast)
        self.span = span
        self._warm(device)
        pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
        self.losses = torch.zeros(case.steps, device=device)
        self.graphs: list[Work] = []
        for start in range(0, case.steps, span):
            self.optimizer.zero_grad(set_to_none=True)
            self.graphs.append(capture(self._part(start), pool))

    def options(self, mode: str, column: Column, device: str) -> dict[str, Any]:
        capturable = {"capturable": True} if column.name == "adam" and device == "cuda" else {}
        return {"fused": True, **capturable}

    def first_losses(self, count: int) -> list[float]:
        """Of at most an epoch."""
        self.run(self.case.steps)
        return self.losses[:count].tolist()

    def run(self, steps: int) -> int:
        epochs = max(1, round(steps / self.case.steps))
        for _ in range(epochs):
            for replay in self.graphs:
                replay()
        return epochs * self.case.steps

    def _part(self, start: int) -> Work:
        part = list(enumerate(self._endless(self.case.steps)))[start : start + self.span]

        def work() -> None:
            for number, (x, y) in part:
                self.losses[number].copy_(self._step(x, y))

        return work

    def _warm(self, device: str) -> None:
        """A few steps, outside of any graph, whose effect is taken back."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        stream = torch.cuda.Stream() if device == "cuda" else None
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for x, y in self._endless(WARM_STEPS):
                self._step(x, y)
        if stream:
            stream.synchronize()
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                for state in self.optimizer.state[parameter].values():
                    state.zero_()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block when its time is up. Only for the main thread."""

    def stop(number: int, frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def explore(notes: Notebook, tasks: tuple[Task, ...] = TASKS, device: str = "cuda", **graphed: Any) -> None:
    """The reference losses, eager mode, and whole-step graphs."""
    clock = clock_for(device)
    torch.set_flush_denormal(True)

    def reference(task: Task) -> None:
        torch.set_float32_matmul_precision("highest")
        first = PyTorch(task.case, task.column, "eager", device).first_losses(trainings.CHECKED_STEPS)
        trainings.losses_file(notes, task).write_text(json.dumps(first))

    def eager(task: Task) -> None:
        training = PyTorch(task.case, task.column, "fused", device, precision(task))
        losses = training.first_losses(task.case.steps)
        trainings.measure(notes, task, "eager, fused", training, losses, clock)

    def graphs(task: Task, span: int, mode: str) -> None:
        training = Graphed(task.case, task.column, span, device, precision(task), **graphed)
        losses = training.first_losses(task.case.steps)
        trainings.measure(notes, task, mode, training, losses, clock)

    references = {(task.case, task.column): task for task in tasks}
    for task in references.values():
        notes.attempt(f"{task}: reference", reference, task)
    for span in SPANS:
        mode = f"graph of {span} step{'s' * (span > 1)}"
        for task in tasks:
            notes.attempt(f"{task}: {mode}", graphs, task, span, mode)
    for task in tasks:
        notes.attempt(f"{task}: eager, fused", eager, task)


def explore_compiled(notes: Notebook, tasks: tuple[Task, ...] = TASKS, device: str = "cuda") -> None:
    """torch.compile, each compilation within COMPILE_SECONDS."""
    clock = clock_for(device)

    def compiled(task: Task, mode: str) -> None:
        name = f"torch.compile, {mode}"
        limit = min(COMPILE_SECONDS, notes.left)
        began = time.monotonic()
        try:
            with at_most(limit):
                training = PyTorch(task.case, task.column, mode, device, precision(task))
                losses = training.first_losses(task.case.steps)
        except OutOfTime:
            notes.skipped(f"{task}: {name}", f"compiling took more than {limit:.0f} s")
            return
        note = f"first epoch after {time.monotonic() - began:.0f} s"
        trainings.measure(notes, task, name, training, losses, clock, note=note)

    for task in tasks:
        for mode in GRAPHED:
            notes.attempt(f"{task}: torch.compile, {mode}", compiled, task, mode)
