"""`python -m fusedmlp.benchmarks`: run what the machine has, print the tables, keep the results."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusedmlp.backends.cpu.threads import default_threads
from fusedmlp.benchmarks import (
    calls,
    comparisons,
    device,
    harness,
    inference,
    limits,
    memory,
    plots,
    report,
    startup,
)
from fusedmlp.benchmarks.cases import CASES, COLUMNS, INFERRED, NONE, SGD, SWEEPS, SWEPT, Case, Column, named
from fusedmlp.benchmarks.harness import Contestant
from fusedmlp.benchmarks.peers import INFERRING, MODES, OURS, contestants

PARTS = ("trainings", "inference", "calls", "sweeps", *comparisons.PARTS, "memory", "startup")
ROUNDS, QUICK_ROUNDS = 7, 3
TURN, QUICK_TURN = 0.2, 0.05  # seconds
QUICK_CASES = ("line", "small", "mnist")
SWEEPERS = (OURS, ("pytorch", "fused"), ("jax", "scan"), ("sklearn", "partial_fit"))
SWEEP_ROUNDS = 3  # a curve of many points shows by itself how far each may be off


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fusedmlp.benchmarks",
        description="Train the same networks here, in PyTorch, in JAX and in scikit-learn, in turns.",
    )
    add = made.add_argument
    add("--parts", nargs="+", choices=PARTS, help="parts of the suite (all; with --cases the trainings alone)")
    add("--cases", nargs="+", metavar="CASE", help=f"{', '.join(CASES)}; sweeps: {', '.join(SWEEPS)}")
    add("--optimizers", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    add("--peers", nargs="+", metavar="PEER", help=f"{', '.join(MODES)}, or one mode, as in jax:scan")
    add("--rounds", type=int, metavar="N", help=f"turns of each peer ({ROUNDS}; quick: {QUICK_ROUNDS})")
    add("--threads", type=int, metavar="N", help="threads of every peer (all that this process may use)")
    add("--turn", type=float, metavar="SECONDS", help=f"length of a turn ({TURN}; quick: {QUICK_TURN})")
    add("--quick", action="store_true", help="small cases and short turns")
    add("--json", type=Path, metavar="PATH", help="where the results go; else a whole run's to benchmarks/results/")
    add("--readme", action="store_true", help="run nothing: rewrite the documents' tables from the newest results")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.readme:
        return write_documents()
    try:
        cases = named(options.cases or list(QUICK_CASES if options.quick else CASES))
        entrants = contestants(options.peers or list(MODES))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    whole = not (options.quick or options.parts or options.cases or options.peers)
    results = Suite(options, cases, list(dict.fromkeys([OURS, *entrants]))).run()
    path = options.json or (default_path(results) if whole else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{report.markdown(results)}")
    if path:
        pictures = plots.draw(results, path.with_suffix("")) if plots.available() else []
        print("\n".join(f"wrote {file}" for file in (path, *pictures)))
        if not plots.available():
            print("no plots: pip install matplotlib")
    return 0


class Suite:
    """One run of the parts that were asked for."""

    def __init__(self, options: argparse.Namespace, cases: list[Case], entrants: list[Contestant]):
        self.quick = options.quick
        self.parts = options.parts or (["trainings"] if options.cases else PARTS)
        self.cases, self.entrants = cases, entrants
        self.columns = [COLUMNS[name] for name in options.optimizers]
        self.threads = options.threads or default_threads()
        self.rounds = options.rounds or (QUICK_ROUNDS if self.quick else ROUNDS)
        self.turn = options.turn or (QUICK_TURN if self.quick else TURN)

    def run(self) -> report.Results:
        print(f"{device.device_name()}, {self.threads} threads, {self.rounds} rounds", flush=True)
        reach = limits.measure(self.threads)
        print(report.reach(asdict(reach)), flush=True)
        bench = harness.Bench(self.entrants, self.threads, self.rounds, self.turn, say=print_row)
        work: list[tuple[Case, Column]] = []
        rows: list[harness.Row] = []
        if "trainings" in self.parts:
            work += [(case, column) for case in self.cases for column in self.columns]
            rows += self.timed(bench, work)
        if "sweeps" in self.parts:
            rounds = min(self.rounds, SWEEP_ROUNDS)
            sweep = harness.Bench(list(SWEEPERS), self.threads, rounds, QUICK_TURN, say=print_row)
            swept = [(case, SGD) for case in SWEPT.values()]
            work += swept
            rows += self.timed(sweep, swept)
        results = harness.document(
            bench,
            reach,
            work,
            rows,
            inference=self.inference() if "inference" in self.parts else [],
            calls=calls.measure(self.threads, self.rounds) if "calls" in self.parts else [],
            comparisons=self.comparisons(),
            memory=memory.measure(self.threads, self.quick) if "memory" in self.parts else [],
            startup=self.startup() if "startup" in self.parts else [],
        )
        return json.loads(json.dumps(results))  # as a later reader sees them

    def timed(self, bench: harness.Bench, work: list[tuple[Case, Column]]) -> list[harness.Row]:
        try:
            return [row for case, column in work for row in bench.rows(case, column)]
        finally:
            bench.close()

    def inference(self) -> list[dict[str, Any]]:
        bench = inference.Inference(list(INFERRING), self.threads, self.rounds, QUICK_TURN, say=print_row)
        return [asdict(row) for row in self.timed(bench, [(case, NONE) for case in INFERRED.values()])]

    def comparisons(self) -> list[dict[str, Any]]:
        found = []
        for part in (part for part in comparisons.PARTS if part in self.parts):
            comparer = comparisons.Comparer(self.threads, self.rounds, self.turn)
            try:
                for comparison in comparisons.comparisons(part, self.threads, self.quick):
                    found.append(comparer.row(comparison))
                    print(report.compared(found[-1]), flush=True)
            finally:
                comparer.close()
        return found

    def startup(self) -> list[dict[str, Any]]:
        return startup.measure(self.threads, max(self.rounds, startup.FEWEST_ROUNDS), cold=not self.quick)


def default_path(results: report.Results) -> Path:
    return device.results_folder() / f"{device.slug(results['device'])}-{results['date'][:10]}.json"


def write_documents() -> int:
    folder = device.results_folder()
    try:
        source = report.newest(folder)
        written = report.rewrite_documents(folder.parent.parent, json.loads(source.read_text()))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"{path}: tables from {source.name}" for path in written))
    return 0


def print_row(row: harness.Row) -> None:
    """One line for a row, as soon as it is known."""
    line = f"{row.case:10} {row.optimizer:5} {row.peer:8} {row.mode:12}"
    if row.seconds is not None:
        line += f"{report.microseconds(row.seconds.p50):>9} µs a step"
        if row.ratio is not None:
            line += f", over ours {report.spread(asdict(row.ratio))}"
        line += f"  {row.note}"
    else:
        line += f"{row.status}: {row.note}"
    print(line.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
