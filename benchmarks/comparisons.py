"""Two runs of one peer in turns: how much longer a step takes when one thing is changed.

threads      one thread over all of them: what the further threads bring
growth       a step in an epoch of many rows over one of few; the FLOP rate of a middle-sized network over a large one
subnormals   a network whose hidden units have all died, the momentum decaying, over a live one
sharing      two trainings at once over one alone, of which 2 is the sharing itself; twice the workers over as planned
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from fusedmlp.benchmarks.cases import CASES, EPOCHS, SGD, Case
from fusedmlp.benchmarks.harness import (
    PREPARE_LIMIT,
    REST_SECONDS,
    Asked,
    Contestant,
    Failed,
    Missing,
    Peer,
    Spread,
    take_turns,
    training_task,
)
from fusedmlp.benchmarks.peers import OURS

TORCH = ("pytorch", "fused")
LARGE = CASES["large"]  # of which a step takes two seconds
BASE, CHANGED = ("", "base"), ("", "changed")  # the names that the two take turns under
SCALES_FROM = 1e8  # FLOP of a step from which on a second thread must bring most of its own: mid's
SCALING = 1.8  # of two threads over one
RATE_KEPT = 0.7  # at mid of the FLOP rate at large
# Two trainings take turns on caches too. Without a collapse that is a fraction; with one, times.
SHARING_ROOM = 1.25


@dataclass(frozen=True)
class Side:
    """One of the two: who trains what, with so many threads (None: all), in so many processes at once."""

    contestant: Contestant
    case: Case
    threads: int | None = None
    processes: int = 1
    dead: bool = False


@dataclass(frozen=True)
class Comparison:
    """`changed` over `base`; the ratio of their seconds a step is multiplied by `scale`. `at_least` and `at_most` are
    goals, for this library alone."""

    part: str
    what: str
    changed: Side
    base: Side
    scale: float = 1.0
    at_least: float | None = None
    at_most: float | None = None


def comparisons(part: str, threads: int, quick: bool = False) -> list[Comparison]:
    return list(PARTS[part](threads, quick))


def _threads(threads: int, quick: bool) -> Iterator[Comparison]:
    for case in list(CASES.values())[: 3 if quick else None]:
        for who in (OURS,) if case is LARGE else (OURS, TORCH):
            least = (SCALING if case.flop > SCALES_FROM else 1.0) if who == OURS and threads == 2 else None
            what = f"{case.name}: 1 thread over {threads}"
            yield Comparison("threads", what, Side(who, case, threads=1), Side(who, case), at_least=least)


def _growth(threads: int, quick: bool) -> Iterator[Comparison]:
    few, many = EPOCHS
    for who in (OURS, TORCH):
        what = f"a step of an epoch of {many.rows} rows over one of {few.rows}"
        yield Comparison("growth", what, Side(who, many), Side(who, few))
    if not quick:
        mid = CASES["mid"]
        what, scale = "FLOP rate at mid over that at large", mid.flop / LARGE.flop
        yield Comparison("growth", what, Side(OURS, LARGE), Side(OURS, mid), scale, at_least=RATE_KEPT)


def _subnormals(threads: int, quick: bool) -> Iterator[Comparison]:
    case = CASES["mnist"]
    for who in (OURS, TORCH, ("pytorch", "gradual")):
        yield Comparison("subnormals", "all hidden units dead over live", Side(who, case, dead=True), Side(who, case))


def _sharing(threads: int, quick: bool) -> Iterator[Comparison]:
    case = CASES["mnist" if quick else "mid"]
    alone = Side(OURS, case)
    two = 2 * SHARING_ROOM
    for what, changed, most in (
        ("two trainings in one process over one", Side(("ours", "two at once"), case), two),
        ("two trainings in two processes over one", Side(OURS, case, processes=2), two),
        (f"{2 * threads} workers over {threads}", Side(("ours", "twice the workers"), case), SHARING_ROOM),
    ):
        yield Comparison("sharing", what, changed, alone, at_most=most)
    beside = Side(TORCH, case, processes=2)
    yield Comparison("sharing", "two trainings in two processes over one", beside, Side(TORCH, case))


PARTS: dict[str, Callable[[int, bool], Iterator[Comparison]]] = {
    "threads": _threads,
    "growth": _growth,
    "subnormals": _subnormals,
    "sharing": _sharing,
}


class Together:
    """Several processes that do the same at the same time."""

    def __init__(self, peers: list[Peer]):
        self.peers = peers
        self.pool = ThreadPoolExecutor(len(peers))
        self.steps = 0  # of a turn; known when they are prepared

    def ask(self, limit: float, **request: object) -> dict[str, Any]:
        """Of numbers the largest: all are done when the last is. Each runs as many steps as the one with the fewest."""
        if request["do"] == "run":
            request["steps"] = self.steps
        answers = list(self.pool.map(lambda peer: peer.ask(limit, **request), self.peers))
        if request["do"] == "prepare":
            self.steps = min(answer["steps"] for answer in answers)
            return answers[0]
        return {figure: max(answer[figure] for answer in answers) for figure in answers[0]}


class Comparer:
    """The processes of the comparisons, each kept for the next one that it serves."""

    def __init__(self, threads: int, rounds: int, turn: float):
        self.threads, self.rounds, self.turn = threads, rounds, turn
        self.peers: dict[Any, Peer] = {}

    def close(self) -> None:
        for peer in self.peers.values():
            peer.stop()

    def row(self, comparison: Comparison) -> dict[str, Any]:
        """As JSON takes it: seconds a step of both, and their ratio from neighbouring turns."""
        peer, mode = comparison.changed.contestant
        row: dict[str, Any] = {"part": comparison.part, "what": comparison.what, "peer": peer, "mode": mode}
        row |= {"case": comparison.changed.case.name, "status": "timed", "note": ""}
        row |= {"at_least": comparison.at_least, "at_most": comparison.at_most}
        if self.threads == 1 and comparison.part == "threads":
            return row | {"status": "left out", "note": "there is one core"}
        try:
            sides = {BASE: self._prepared(comparison.base, 0), CHANGED: self._prepared(comparison.changed, 1)}
            turns = take_turns(sides, BASE, self.rounds, REST_SECONDS)
            if cause := turns[BASE].cause or turns[CHANGED].cause:
                raise Failed(cause)
        except (Missing, Failed) as cause:
            return row | {"status": "missing" if isinstance(cause, Missing) else "failed", "note": str(cause)}
        changed, base = turns[CHANGED], turns[BASE]
        ratios = [comparison.scale * ratio for ratio in changed.ratios]
        row |= {"seconds": asdict(Spread.of(changed.seconds)), "base": asdict(Spread.of(base.seconds))}
        return row | {"ratio": asdict(Spread.of(ratios)), "note": changed.spins or base.spins}

    def _prepared(self, side: Side, place: int) -> Asked:
        threads = side.threads or self.threads
        keys = [(side.contestant, threads, place + number) for number in range(side.processes)]
        for key in keys:
            if key not in self.peers:
                self.peers[key] = Peer(side.contestant, threads)
        peers = [self.peers[key] for key in keys]
        asked: Asked = peers[0] if len(peers) == 1 else Together(peers)
        task = training_task(side.case, SGD, self.turn) | ({"task": "dead"} if side.dead else {})
        asked.ask(PREPARE_LIMIT, do="prepare", **task)
        return asked
