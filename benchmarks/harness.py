"""Check every peer, then time it in turns with ours: ours, peer, ours, peer.

Each peer and mode has a process of its own, which waits on its input while it is not its turn.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import numpy as np

from fusedmlp.benchmarks import device
from fusedmlp.benchmarks.cases import Case, Column
from fusedmlp.benchmarks.limits import Limits
from fusedmlp.benchmarks.peers import OURS

REFERENCE = ("pytorch", "eager")
REST_SECONDS = 0.1  # between turns: OpenBLAS's idle threads spin for some tens of milliseconds
LEFT_OUT = "takes minutes here, or is far from the fastest: benchmarks/cases.py"
RESTLESS = 0.5  # CPU seconds a second, at rest, from which on a pool counts as spinning
PREPARE_LIMIT = 600.0  # seconds; torch.compile takes most of a minute
TURN_LIMIT = 120.0  # seconds
STOP_LIMIT = 10.0  # seconds
WORKER = "fusedmlp.benchmarks.worker"
Contestant = tuple[str, str]
Prepared = dict[Contestant, dict[str, Any] | Exception]


@dataclass(frozen=True)
class Spread:
    """The 20th, 50th and 80th percentile of one figure over the rounds."""

    p20: float
    p50: float
    p80: float

    @staticmethod
    def of(values: list[float]) -> "Spread":
        return Spread(*(float(p) for p in np.percentile(values, (20, 50, 80))))


@dataclass(frozen=True)
class Row:
    """One peer's figures for one case and optimizer.

    status    "timed", "failed" (a wrong loss, or an error), "missing" or "left out"; `note` says why
    seconds   a step
    ratio     this peer's time over ours, from turns that followed each other; None where ours was not timed
    resting   CPU seconds a second that it spent while it should have rested: the median over the rounds
    host      seconds a step until the call came back, where another clock than the host's measured `seconds`
    """

    case: str
    optimizer: str
    peer: str
    mode: str
    status: str
    note: str = ""
    steps_per_turn: int | None = None
    seconds: Spread | None = None
    ratio: Spread | None = None
    resting: float | None = None
    host: Spread | None = None


class Missing(Exception):
    """The peer's package is not installed."""


class Failed(Exception):
    """The peer's process reported an error, ended, or was ended because it took too long."""


class Asked(Protocol):
    """Whoever answers a worker's requests."""

    def ask(self, limit: float, **request: object) -> dict[str, Any]: ...


class Peer:
    """The harness's end of a worker's process, which is started at its first use."""

    def __init__(self, contestant: Contestant, threads: int, worker: str = WORKER):
        self.contestant = contestant
        self.threads = threads
        self.worker = worker
        self.process: subprocess.Popen[str] | None = None
        self.missing = ""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object

    def ask(self, limit: float, **request: object) -> dict[str, Any]:
        """The worker's answer; it has `limit` seconds."""
        if self.process is None:
            self._start()
        self._send(request)
        return self._answer(limit)

    def stop(self) -> None:
        """End the process: the end of its input tells it to, and one that does not obey is killed."""
        if self.process is None:
            return
        process, self.process = self.process, None
        try:
            process.communicate(timeout=STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def _start(self) -> None:
        if self.missing:
            raise Missing(self.missing)
        peer, mode = self.contestant
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.worker, peer, mode, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=device.environment(self.threads),
            text=True,
        )
        first = self._answer(PREPARE_LIMIT)
        if "missing" in first:
            self.stop()
            self.missing = first["missing"]
            raise Missing(self.missing)

    def _send(self, request: dict[str, object]) -> None:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer's absence says more

    def _answer(self, limit: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        timer = threading.Timer(limit, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timed_out = not timer.is_alive()
        timer.cancel()
        if not line:
            code = self.process.wait()
            self.stop()
            cause = f"no answer within {limit:.0f} s" if timed_out else f"the process ended with {code}"
            raise Failed(f"{cause}; {self._last_error()}")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _last_error(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def tolerance(column: Column, steps: int) -> np.ndarray:
    """Relative tolerance of each of the first losses, in float32, over the steps.

    SGD carries rounding on as it is: 5e-6 is 40 units in the last place, and up to 2e-7 was seen between
    PyTorch, JAX, scikit-learn and a float64 run, in all cases. Adam divides by the gradient's own size, so
    that rounding in the smallest gradients moves weights by a full step: the distance grew by about half with
    each step at wide, to 7e-4 after twenty. Without its bias correction the second loss is off by 1e-3.
    """
    growth = 1.0 if column.name == "sgd" else 1.5
    return 5e-6 * growth ** np.arange(steps)


def mismatch(losses: list[float], reference: list[float], column: Column) -> str:
    """What is wrong with a loss trajectory; empty where it is right. NaN is always wrong."""
    found, expected = np.array(losses), np.array(reference)
    if found.shape != expected.shape:
        return f"{len(losses)} losses, not {len(reference)}"
    distance = np.abs(found - expected) / np.abs(expected)
    allowed = tolerance(column, len(losses))
    wrong = np.flatnonzero(~(distance <= allowed))
    if not wrong.size:
        return ""
    step = int(wrong[0])
    return (
        f"loss {found[step]:.7g} at step {step}, PyTorch has {expected[step]:.7g}: "
        f"relative {distance[step]:.1e}, allowed {allowed[step]:.1e}"
    )


def training_task(case: Case, column: Column, turn: float) -> dict[str, Any]:
    """What a worker is to prepare."""
    asked = {"case": case.name, "column": column.name, "losses": case.checked_steps, "fewest": case.fewest_steps}
    return asked | {"turn": turn}


@dataclass
class Turns:
    """What one contestant did in its turns but the first.

    seconds, host  a step of each turn
    ratios         its `seconds` over those of the turn before it, which was the base's
    resting        CPU seconds a second before each turn
    cause          why it did not go on; empty where it did
    """

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    resting: list[float] = field(default_factory=list)
    cause: str = ""

    @property
    def spins(self) -> str:
        """A remark on a pool that does not rest; empty where it does."""
        rest = statistics.median(self.resting)
        return f"its threads spun at rest ({rest:.1f} CPU s/s)" if rest > RESTLESS else ""


def take_turns(
    peers: Mapping[Contestant, Asked], base: Contestant, rounds: int, rest: float
) -> dict[Contestant, Turns]:
    """Rounds of base, peer, base, peer; the first round is a warm-up and is dropped. All are prepared; the base need
    not be among them."""
    found = {name: Turns() for name in peers}
    others = [name for name in peers if name != base]

    def turn(name: Contestant, counts: bool) -> float | None:
        if name not in peers or found[name].cause:
            return None
        time.sleep(rest)
        try:
            answer = peers[name].ask(TURN_LIMIT, do="run")
        except Failed as cause:
            found[name].cause = str(cause)
            return None
        if counts:
            for figure in ("seconds", "host", "resting"):
                getattr(found[name], figure).append(answer[figure])
        return answer["seconds"]

    for number in range(rounds + 1):
        for name in others or [base]:
            before = turn(base, counts=number > 0)
            took = turn(name, counts=number > 0) if name != base else None
            if before and took and number > 0:
                found[name].ratios.append(took / before)
    return found


@dataclass
class Bench:
    """The processes of one run. `turn` is in seconds; `say` takes each row as it is done.

    ours       who the others take turns with
    reference  whose losses are right
    rest       seconds between turns
    """

    ours: ClassVar[Contestant] = OURS
    reference: ClassVar[Contestant] = REFERENCE
    worker: ClassVar[str] = WORKER
    rest: ClassVar[float] = REST_SECONDS

    contestants: list[Contestant]
    threads: int
    rounds: int
    turn: float
    say: Callable[[Row], None]

    def __post_init__(self) -> None:
        names = list(dict.fromkeys([self.reference, *self.contestants]))
        self.peers = {name: Peer(name, self.threads, self.worker) for name in names}

    def close(self) -> None:
        for peer in self.peers.values():
            peer.stop()

    def rows(self, case: Case, column: Column) -> list[Row]:
        """Prepare and check all contestants, time those that are right; one row for each."""
        rows: dict[Contestant, Row] = {
            name: Row(case.name, column.name, *name, "left out", LEFT_OUT)
            for name in self.contestants
            if case.leaves_out(*name)
        }
        prepared: dict[Contestant, dict[str, Any]] = {}
        for name, answer in self._prepare_all(case, column).items():
            if isinstance(answer, Exception):
                status = "missing" if isinstance(answer, Missing) else "failed"
                rows[name] = Row(case.name, column.name, *name, status, str(answer))
            else:
                prepared[name] = answer
        reference = prepared[self.reference]["losses"] if self.reference in prepared else None
        for name in list(prepared):
            note = self._fault(prepared[name]["losses"], reference, column) if reference else ""
            if note:
                del prepared[name]
                rows[name] = Row(case.name, column.name, *name, "failed", note)
        timed = {name: prepared[name]["steps"] for name in self.contestants if name in prepared and name not in rows}
        note = "" if reference else "losses not checked: PyTorch is missing"
        rows |= self._timed(case, column, timed, note)
        found = [rows[name] for name in self.contestants]
        for row in found:
            self.say(row)
        return found

    def _fault(self, losses: list[float], reference: list[float], column: Column) -> str:
        """What is wrong with the first losses; empty where they are right."""
        return mismatch(losses, reference, column)

    def _prepare_all(self, case: Case, column: Column) -> Prepared:
        """Each one's answer, or why there is none."""
        taking_part = [name for name in self.peers if name == self.reference or not case.leaves_out(*name)]
        return {name: self._attempt(name, case, column) for name in taking_part}

    def _attempt(self, name: Contestant, case: Case, column: Column) -> dict[str, Any] | Exception:
        try:
            return self._prepare(name, case, column)
        except (Missing, Failed) as cause:
            return cause

    def _prepare(self, name: Contestant, case: Case, column: Column) -> dict[str, Any]:
        return self.peers[name].ask(PREPARE_LIMIT, do="prepare", **self._task(case, column))

    def _task(self, case: Case, column: Column) -> dict[str, Any]:
        return training_task(case, column, self.turn)

    def _timed(self, case: Case, column: Column, steps: dict[Contestant, int], note: str) -> dict[Contestant, Row]:
        """Turns of those that are prepared, whose `steps` these are."""
        rows = {}
        turns = take_turns({name: self.peers[name] for name in steps}, self.ours, self.rounds, self.rest)
        for name, took in turns.items():
            if took.cause:
                rows[name] = Row(case.name, column.name, *name, "failed", took.cause)
                continue
            rows[name] = Row(
                case.name,
                column.name,
                *name,
                "timed",
                "; ".join(filter(None, [note, took.spins])),
                steps_per_turn=steps[name],
                seconds=Spread.of(took.seconds),
                ratio=Spread.of(took.ratios) if took.ratios else None,
                resting=statistics.median(took.resting),
                host=Spread.of(took.host),
            )
        return rows


def document(
    bench: Bench,
    limits: Limits,
    work: list[tuple[Case, Column]],
    rows: list[Row],
    **parts: list[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that a run found, as JSON takes it; times in seconds, floors in seconds a step. `work` is what `rows`
    trained; the other parts have rows of their own."""
    return {
        "device": device.device_name(),
        "threads": bench.threads,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": device.commit(),
        "versions": device.versions(),
        "rounds": bench.rounds,
        "turn_seconds": bench.turn,
        "limits": asdict(limits),
        "cases": [
            {
                "case": case.name,
                "sizes": case.sizes,
                "batch": case.batch,
                "loss": case.loss,
                "to_reach": case.to_reach,
                "enough": case.least,
                "optimizer": column.name,
                "flop": case.flop,
                "bytes": case.traffic(column),
                "compute_floor": limits.compute_floor(case),
                "traffic_floor": limits.traffic_floor(case, column),
            }
            for case, column in work
        ],
        "rows": [asdict(row) for row in rows],
    } | parts
