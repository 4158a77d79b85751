"""`python -m fusedmlp.benchmarks.targets [RESULTS.json]`: fails where a run falls short of its targets by more than its
spread. Without a file it runs the suite first.

A ratio is judged by its better end: short is a case whose 80th percentile lies below the target (benchmarks/cases.py).
A case that was not timed, or not against both PyTorch and JAX, is short too: nothing was shown.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusedmlp.benchmarks import __main__ as suite
from fusedmlp.benchmarks.calls import LIMIT
from fusedmlp.benchmarks.cases import CASES, COLUMNS, Case
from fusedmlp.benchmarks.report import Results, best, judged, leader, rows_of, spread


def shortfalls(results: Results) -> list[str]:
    """What the results are short of, a line each; empty where all targets are met."""
    short = [line for case in CASES.values() for column in COLUMNS for line in of_training(results, case, column)]
    for row in results.get("calls", ()):
        if row["status"] != "timed":
            short.append(f"{row['kernel']}: {row['status']}, {row['note']}")
        elif row["peer"] == "ours" and not row["seconds"]["p20"] <= LIMIT:
            took = row["seconds"]["p50"] * 1e6
            short.append(f"{row['kernel']}: {took:.1f} µs on one number, at most {LIMIT * 1e6:.0f}")
    for row in results.get("comparisons", ()):
        goals = row["at_least"], row["at_most"]
        if goals != (None, None) and (why := of_comparison(row, *goals)):
            short.append(f"{row['part']}, {row['what']}: {why}")
    for row in results.get("memory", ()):
        if row["peer"] == "ours" and (why := of_memory(row)):
            short.append(f"memory, {row['case']} {row['optimizer']}: {why}")
    for row in results.get("startup", ()):
        if row["status"] != "timed":
            short.append(f"{row['case']}: {row['status']}, {row['note']}")
        elif not row["seconds"]["p20"] <= row["limit"]:
            short.append(f"{row['case']}: {row['seconds']['p50']:.3g} s over its floor, at most {row['limit']:.3g}")
    return short


def of_training(results: Results, case: Case, optimizer: str) -> Iterator[str]:
    """Of the case's goals against the best peer, and against PyTorch alone."""
    if case.least is None:
        return
    name = f"{case.name} {optimizer}"
    if not best(rows_of(results, case.name, optimizer, "ours")) or not judged(results, case.name, optimizer):
        yield f"{name}: not judged, for ours, PyTorch and JAX were not all timed"
        return
    goals = [(leader(results, case.name, optimizer), case.least, "the best peer")]
    if case.against_pytorch is not None:
        goals.append((best(rows_of(results, case.name, optimizer, "pytorch")), case.against_pytorch, "PyTorch"))
    for row, least, whom in goals:
        ratio = row["ratio"] if row else None
        if not (ratio and ratio["p80"] >= least):
            yield f"{name}: {spread(ratio) if ratio else 'no ratio'} times {whom}'s speed, at least {least}"


def of_comparison(row: Results, least: float | None, most: float | None) -> str:
    if row["status"] != "timed":
        return f"{row['status']}, {row['note']}"
    ratio = row["ratio"]
    if least is not None and not ratio["p80"] >= least:
        return f"{spread(ratio)}, at least {least}"
    if most is not None and not ratio["p20"] <= most:
        return f"{spread(ratio)}, at most {most}"
    return ""


def of_memory(row: Results) -> str:
    if row["status"] != "measured":
        return f"{row['status']}, {row['note']}"
    return "" if row["bytes"] <= row["bound"] else f"{row['bytes'] / 1e6:.0f} MB, at most {row['bound'] / 1e6:.0f}"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        print("at most one file of results", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments[0]) if arguments else Path(folder, "results.json")
        if not arguments and (status := suite.main(["--json", str(path)])):
            return status
        try:
            results = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    short = shortfalls(results)
    print("\n".join(short) or "all targets are met")
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
