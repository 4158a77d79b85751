"""The benchmarks' own arithmetic, on made-up figures: who takes turns with whom, what a target is short of, and what
the tables and the pictures show. What is timed in earnest, and how fast, is no test's business."""

import json
from dataclasses import replace

import pytest

from fusedmlp.benchmarks import calls, comparisons, harness, memory, plots, report, targets
from fusedmlp.benchmarks.cases import CASES, COLUMNS, SGD, SWEPT, Case
from fusedmlp.benchmarks.comparisons import Comparison, Side, Together
from fusedmlp.benchmarks.forms import NumPy
from fusedmlp.benchmarks.harness import Failed, take_turns


def spread(middle, width=0.1):
    return {"p20": middle * (1 - width), "p50": middle, "p80": middle * (1 + width)}


TIMED = ("ours", *report.PEERS)


def results(ratio=lambda case: case.to_reach, cases=(), peers=TIMED):
    """A run in which the best peer, JAX, takes `ratio(case)` times as long as ours, and PyTorch 400 times."""
    work, rows = [], []
    for case in cases or CASES.values():
        for column in COLUMNS.values():
            figures = {"case": case.name, "optimizer": column.name}
            shape = {"sizes": case.sizes, "batch": case.batch, "loss": case.loss, "to_reach": case.to_reach}
            counted = {"enough": case.least, "flop": case.flop, "bytes": case.traffic(column)}
            work.append(figures | shape | counted | {"compute_floor": 1e-6, "traffic_floor": 1e-7})
            for peer in peers:
                factor = {"ours": 1.0, "jax": ratio(case) or 1.0}.get(peer, 400.0)
                row = figures | {"peer": peer, "mode": "made up", "status": "timed", "note": ""}
                row |= {"seconds": spread(1e-4 * factor), "ratio": None if peer == "ours" else spread(factor)}
                rows.append(row)
    about = {"device": "a machine", "threads": 2, "date": "2026-01-01", "commit": None, "rounds": 7, "versions": {}}
    limits = {"flop_per_second": 1e11, "bytes_per_second": 1e10}
    return about | {"limits": limits, "cases": work, "rows": rows, "startup": []}


COMPARED = {"part": "threads", "what": "1 over 2", "peer": "ours", "mode": "cpu", "case": "mid", "note": ""}
COMPARED |= {"status": "timed", "seconds": spread(2e-3), "base": spread(1e-3), "ratio": spread(1.9, 0.02)}
COMPARED |= {"at_least": 1.8, "at_most": None}
REMEMBERED = {"case": "mid", "optimizer": "sgd", "peer": "ours", "status": "measured", "note": ""}
REMEMBERED |= {"parameter_bytes": 1e6, "bytes": 3e6, "bound": 4e6}
CALLED = {"status": "timed", "note": "", "kernel": "mse", "peer": "ours", "seconds": spread(2e-6)}
STARTED = {"case": "import", "status": "timed", "note": "", "seconds": spread(0.009), "floor": 0.04, "limit": 0.01}


def test_targets_that_are_met():
    assert targets.shortfalls(results()) == []
    full = results() | {"comparisons": [COMPARED], "memory": [REMEMBERED], "startup": [STARTED]}
    assert targets.shortfalls(full) == []


def test_a_target_is_met_within_the_spread_and_missed_beyond_it():
    assert targets.shortfalls(results(lambda case: case.least / 1.09)) == []
    short = targets.shortfalls(results(lambda case: case.least / 1.11))
    assert len(short) == 2 * len(CASES)
    assert "mnist sgd: 1.8 (1.62 to 1.98) times the best peer's speed, at least 2.0" in short


def test_what_is_enough_counts():
    assert CASES["small"].least == 2.0 and CASES["large"].least == 1.0 and CASES["wide"].least == 1.2
    assert targets.shortfalls(results(lambda case: case.least)) == []


def test_a_goal_against_pytorch_alone():
    found = results()
    for row in found["rows"]:
        if (row["case"], row["peer"]) == ("line", "pytorch"):
            row["ratio"] = spread(250)
    assert [line.partition(":")[0] for line in targets.shortfalls(found)] == ["line sgd", "line adam"]


@pytest.mark.parametrize("missing", ["ours", "pytorch", "jax"])
def test_what_was_not_timed_is_short(missing):
    without = tuple(peer for peer in TIMED if peer != missing)
    short = targets.shortfalls(results(peers=without))
    assert len(short) == 2 * len(CASES) and all("not judged" in line for line in short)
    assert len(targets.shortfalls(results(cases=(CASES["mid"],)))) == 2 * (len(CASES) - 1)


@pytest.mark.parametrize(
    "part, row",
    [
        ("comparisons", COMPARED | {"ratio": spread(1.7, 0.02)}),
        ("comparisons", COMPARED | {"ratio": spread(float("nan"))}),
        ("comparisons", COMPARED | {"at_least": None, "at_most": 1.5}),
        ("comparisons", COMPARED | {"status": "failed"}),
        ("memory", REMEMBERED | {"bytes": 5e6}),
        ("memory", REMEMBERED | {"status": "failed"}),
        ("calls", CALLED | {"seconds": spread(4e-6)}),
        ("calls", CALLED | {"status": "failed"}),
        ("startup", STARTED | {"seconds": spread(0.02)}),
        ("startup", STARTED | {"status": "failed"}),
    ],
)
def test_other_parts_can_be_short(part, row):
    assert len(targets.shortfalls(results() | {part: [row]})) == 1


def test_calls_of_others_have_no_limit():
    rows = [CALLED, CALLED | {"peer": "numpy", "seconds": spread(4e-6)}]
    assert targets.shortfalls(results() | {"calls": rows}) == []
    line = report.calls_table({"calls": rows}).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:5]] == ["mse", "2 (1.8 to 2.2)", "4", "missing"]


def test_single_calls_that_fail_are_a_row(monkeypatch):
    monkeypatch.setattr(calls.sys, "executable", "false")
    (row,) = calls.measure(1, 2)
    assert row["status"] == "failed"
    assert "failed: no word" in report.calls_table({"calls": [row]})


def test_single_calls_are_timed(monkeypatch):
    """Each kernel once, by the package's functions, beside what else is there."""
    monkeypatch.setattr(calls, "TURN", 1e-5)
    found = calls.rows(1, 2)
    ours = {row["kernel"] for row in found if row["peer"] == "ours"}
    assert ours == {row["kernel"] for row in found if row["peer"] == "numpy"} == set(calls.calls(NumPy()))
    assert all(0 < row["seconds"]["p20"] <= row["seconds"]["p80"] for row in found)


def test_targets_of_a_file(tmp_path, capsys):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results()))
    assert targets.main([str(file)]) == 0
    file.write_text(json.dumps(results(lambda case: 0.5)))
    assert targets.main([str(file)]) == 1
    assert "wide adam: 0.5" in capsys.readouterr().out
    assert targets.main([str(tmp_path / "none.json")]) == 2


class Scripted:
    """A peer whose turns take these seconds; an exception in their place is raised."""

    def __init__(self, *seconds, log=None, name=""):
        self.seconds, self.log, self.name = list(seconds), log, name

    def ask(self, limit, **request):
        if self.log is not None:
            self.log.append((self.name, request.get("steps")))
        if request["do"] == "prepare":
            return {"losses": [], "steps": self.seconds.pop(0)}
        took = self.seconds.pop(0)
        if isinstance(took, Exception):
            raise took
        return {"seconds": took, "host": took, "resting": 0.0}


def test_turns_alternate_and_the_first_round_is_dropped():
    log = []
    ours, one, other = ("ours", ""), ("one", ""), ("other", "")
    peers = {ours: Scripted(9, 9, 1, 2, 3, 4, log=log, name="ours")}
    peers |= {one: Scripted(90, 10, 30, log=log, name="one"), other: Scripted(90, 4, 12, log=log, name="other")}
    found = take_turns(peers, ours, rounds=2, rest=0)
    assert [name for name, _ in log] == ["ours", "one", "ours", "other"] * 3
    assert found[one].ratios == [10, 10] and found[other].ratios == [2, 3]
    assert found[ours].seconds == [1, 2, 3, 4] and found[one].seconds == [10, 30]


def test_a_peer_that_fails_leaves_the_others():
    ours, one, other = ("ours", ""), ("one", ""), ("other", "")
    peers = {ours: Scripted(*[1] * 4), one: Scripted(Failed("broken")), other: Scripted(2, 2)}
    found = take_turns(peers, ours, rounds=1, rest=0)
    assert found[one].cause == "broken" and found[other].ratios == [2]


def test_what_is_left_out_is_a_row(monkeypatch):
    """Nothing is asked of it; the others are prepared, checked and timed."""
    said = []
    case = replace(CASES["mnist"], left_out=("sklearn", "jax:step"), checked_steps=1)
    names = [("ours", "cpu"), ("jax", "scan"), ("jax", "step"), ("sklearn", "partial_fit")]
    bench = harness.Bench(names, threads=1, rounds=1, turn=0.1, say=said.append)
    monkeypatch.setattr(bench, "_prepare", lambda name, *_: {"losses": [1.0], "steps": 3})
    bench.peers = {name: Scripted(*[1] * 9) for name in bench.peers}
    bench.rows(case, SGD)
    assert [row.status for row in said] == ["timed", "timed", "left out", "left out"]
    assert said[1].ratio.p50 == 1


def test_processes_side_by_side_take_as_many_steps():
    log = []
    pair = Together([Scripted(30, 0.2, log=log), Scripted(20, 0.5, log=log)])
    pair.ask(1, do="prepare")
    assert pair.ask(1, do="run") == {"seconds": 0.5, "host": 0.5, "resting": 0.0}
    assert [steps for _, steps in log[2:]] == [20, 20]


def test_a_comparison(monkeypatch):
    case = CASES["mid"]
    comparer = comparisons.Comparer(threads=2, rounds=2, turn=0.1)
    turns = {0: Scripted(9, 1, 2), 1: Scripted(9, 3, 6)}
    monkeypatch.setattr(comparer, "_prepared", lambda side, place: turns[place])
    side = Side(("ours", "cpu"), case)
    row = comparer.row(Comparison("growth", "made up", side, side, scale=0.5))
    assert row["status"] == "timed" and row["ratio"]["p50"] == 1.5
    turns[1] = Scripted(Failed("broken"))
    turns[0] = Scripted(*[1] * 9)
    row = comparer.row(Comparison("growth", "made up", side, side))
    assert (row["status"], row["note"]) == ("failed", "broken")


@pytest.mark.parametrize("part", comparisons.PARTS)
def test_every_part_compares_something_of_ours(part):
    found = comparisons.comparisons(part, threads=2)
    assert any(comparison.changed.contestant[0] == "ours" for comparison in found)
    assert all(comparison.changed != comparison.base for comparison in found)


def test_memory_bound_of_a_layout():
    """By hand: one layer 3-2 in batches of 3, SGD with momentum."""
    from fusedmlp.benchmarks.peers import ours

    case = Case("tiny", (3, 2), 3, "mse", steps=2)
    training = ours.Ours(case)
    training.run(1)
    program = training.model._executor._entered
    padded = 16  # elements: every row and every block fills lines of 64 bytes
    # y and dz of 3 rows each, losses of one row; the rows of the data are read where they lie.
    assert program.layout.length - program.carried >= 2 * 3 * padded + padded
    work = 4 * (program.layout.length - program.carried)
    assert memory.bound(training, case, SGD) == 4 * 8 * 3 + work + memory.last_cache_bytes()


def test_limits_are_counted():
    """Ours takes 100 µs of which the products need 1; JAX takes twice as long, so 200 times is what a floor allows."""
    shown = report.limits_table(results(lambda case: 2.0, cases=[CASES["mnist"]]))
    assert shown.splitlines()[2] == "| mnist | sgd | 1 | 1 % | 0 % | JAX made up | 200.00 | 2.00 |"


def test_tables_and_pictures(tmp_path):
    found = results(cases=(*CASES.values(), *SWEPT.values()))
    full = found | {"comparisons": [COMPARED], "memory": [REMEMBERED], "startup": [STARTED], "inference": []}
    text = report.markdown(full)
    assert "| wide | 784-1024-1024-1024-10, 512, cross_entropy | adam | 100 | 40,000 made up |" in text
    assert "1.9 (1.86 to 1.94) | at least 1.8" in text and "| mid | sgd | 1 | 3 | 4 |" in text
    assert "width-64" not in text
    assert "best peer" not in report.markdown(results(cases=tuple(SWEPT.values())))
    drawn = {file.name for file in plots.draw(full, tmp_path / "run")}
    kinds = ("ratios", "roofline", "width", "batch")
    assert drawn == {f"run-{kind}-{name}.{end}" for kind in kinds for name in COLUMNS for end in ("png", "svg")}
    assert all((tmp_path / name).stat().st_size > 5000 for name in drawn)
