"""Our trainings on the device in turns with PyTorch's and JAX's: ours, peer, ours, peer; each in a process of its own.

Times are between two events on one stream over whole calls of many steps; JAX's, whose streams are its own, are the
host's. What follows another's turn finds its own caches cold, as all do.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from fusedmlp.backends.cpu.threads import core_cpus
from fusedmlp.benchmarks import harness
from fusedmlp.benchmarks.cases import Case, Column
from fusedmlp.benchmarks.explore import trainings
from fusedmlp.benchmarks.explore.notebook import Notebook
from fusedmlp.benchmarks.explore.trainings import CHECKED_STEPS, Task
from fusedmlp.benchmarks.harness import Contestant, Prepared, Row, Spread

OURS = ("ours", "as planned")
REFERENCE = ("pytorch", "reference")
# Own products are float32's, whatever precision was asked for, and far behind where the products are large.
WAYS: tuple[Contestant, ...] = (OURS, ("ours", "library"), ("ours", "instructions"), ("ours", "steps"))
WAYS_WHERE_LARGE = WAYS[:2]
PEERS: tuple[Contestant, ...] = (
    ("pytorch", "graph of 8 steps"),
    ("jax", "scan"),
    ("pytorch", "eager"),
    ("pytorch", "reduce-overhead"),
    ("pytorch", "max-autotune"),
)
TUNING = {"max-autotune"}  # chooses kernels by their times, so nothing may run beside it
LARGE_FLOP = 1e11  # of a step
ROUNDS = 7
TURN = 0.05  # seconds
REST = 0.02  # seconds
PREPARE_SECONDS = 40.0
LEAST_SECONDS = 20.0  # a task with less to go is not begun


class Contest(harness.Bench):
    """The processes of all contestants; `task` is what they train."""

    ours, reference, rest = OURS, REFERENCE, REST
    worker = "fusedmlp.benchmarks.gpu.worker"

    def rows_of(self, task: Task, notes: Notebook) -> list[Row]:
        """Prepares, checks and times them; within about the time that the notebook has left."""
        self.task, self.notes = task, notes
        large = task.case.flop > LARGE_FLOP
        self.contestants = [*(WAYS_WHERE_LARGE if large else WAYS), *PEERS]
        return self.rows(task.case, task.column)

    def _prepare_all(self, case: Case, column: Column) -> Prepared:
        """All at once, since most of it is compiling, but for those that measure while they do."""
        names = [self.reference, *self.contestants]
        apart = [name for name in names if name[1] in TUNING]
        together = [name for name in names if name not in apart]
        with ThreadPoolExecutor(len(together)) as pool:
            answers = pool.map(lambda name: self._attempt(name, case, column), together)
            made: Prepared = dict(zip(together, answers, strict=True))
        return made | {name: self._attempt(name, case, column) for name in apart}

    def _prepare(self, name: Contestant, case: Case, column: Column) -> dict[str, Any]:
        asked = {"case": case.name, "precision": self.task.precision, "column": column.name}
        limit = min(PREPARE_SECONDS, max(1.0, self.notes.left))
        return self.peers[name].ask(limit, do="prepare", **asked, losses=CHECKED_STEPS, turn=self.turn)

    def _fault(self, losses: list[float], reference: list[float], column: Column) -> str:
        return trainings.mismatch(self.task, losses, reference)


def explore(notes: Notebook, tasks: tuple[Task, ...] | None = None) -> None:
    contest = Contest([*WAYS, *PEERS], len(core_cpus()), ROUNDS, TURN, say=lambda row: None)
    try:
        for task in trainings.TASKS if tasks is None else tasks:
            if notes.left < LEAST_SECONDS:
                notes.skipped(str(task), "no time left")
                continue
            notes.attempt(str(task), measure, notes, contest, task)
    finally:
        contest.close()


def measure(notes: Notebook, contest: Contest, task: Task) -> None:
    for row in contest.rows_of(task, notes):
        name = f"{task}: {row.peer} {row.mode}"
        if row.status == "missing":
            notes.skipped(name, row.note)
        elif row.seconds is None or row.host is None:
            notes.failed(name, RuntimeError(row.note))
        else:
            rate = f"{task.case.flop / row.seconds.p50 * 1e-12:.3g} TFLOP/s of products"
            notes.spread(
                name, "µs a step", scaled(row.seconds, 1e6), ROUNDS, note="; ".join(filter(None, [rate, row.note]))
            )
            notes.spread(f"{name}", "µs a step of the host", scaled(row.host, 1e6), ROUNDS)
            if row.ratio:
                notes.spread(name, "times ours as planned", row.ratio, ROUNDS)


def scaled(spread: Spread, factor: float) -> Spread:
    return replace(spread, p20=spread.p20 * factor, p50=spread.p50 * factor, p80=spread.p80 * factor)
