"""`python -m fusedmlp.benchmarks`: run what the machine has, print the tables, keep the results."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fusedmlp.backends.cpu.threads import default_threads
from fusedmlp.benchmarks import device, harness, limits, plots, report, startup
from fusedmlp.benchmarks.cases import CASES, COLUMNS, SWEEPS, named
from fusedmlp.benchmarks.peers import MODES, OURS, contestants

QUICK_CASES = ("line", "small", "mnist")
QUICK_ROUNDS = 3


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fusedmlp.benchmarks",
        description="Train the same networks here, in PyTorch, in JAX and in scikit-learn, in turns.",
    )
    add = made.add_argument
    add("--cases", nargs="+", metavar="CASE", help=f"{', '.join(CASES)}; sweeps: {', '.join(SWEEPS)}")
    add("--optimizers", nargs="+", choices=list(COLUMNS), default=list(COLUMNS))
    add("--peers", nargs="+", metavar="PEER", help=f"{', '.join(MODES)}, or one mode, as in jax:scan")
    add("--rounds", type=int, metavar="N", help="turns of each peer (7; quick: 3)")
    add("--threads", type=int, metavar="N", help="threads of every peer (all that this process may use)")
    add("--turn", type=float, default=0.2, metavar="SECONDS", help="length of a turn (%(default)s)")
    add("--quick", action="store_true", help="small cases, short turns, no torch.compile; nothing is kept")
    add("--json", type=Path, metavar="PATH", help="where the results go (benchmarks/results/)")
    add("--readme", action="store_true", help="run nothing: rewrite README.md's table from the newest results")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.readme:
        return write_readme()
    try:
        cases = named(options.cases or list(QUICK_CASES if options.quick else CASES))
        entrants = contestants(options.peers or list(MODES))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.quick and not options.peers:
        entrants.remove(("pytorch", "compile"))
    entrants = list(dict.fromkeys([OURS, *entrants]))
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else 7)
    threads = options.threads or default_threads()

    print(f"{device.device_name()}, {threads} threads, {rounds} rounds", flush=True)
    bench = harness.Bench(entrants, threads, rounds, 0.05 if options.quick else options.turn, say=print_row)
    columns = [COLUMNS[name] for name in options.optimizers]
    try:
        reach = limits.measure(threads)
        print(report.reach(asdict(reach)), flush=True)
        rows = [row for case in cases for column in columns for row in bench.rows(case, column)]
    finally:
        bench.close()
    started = startup.measure(threads, max(rounds, startup.FEWEST_ROUNDS), cold=not options.quick)
    results = harness.document(bench, reach, cases, columns, rows, started)
    results = json.loads(json.dumps(results))  # as a later reader sees them
    if path := options.json or (None if options.quick else default_path(results)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{report.markdown(results)}")
    if path:
        pictures = plots.draw(results, path.with_suffix("")) if plots.available() else []
        print("\n".join(f"wrote {file}" for file in (path, *pictures)))
        if not plots.available():
            print("no plots: pip install matplotlib")
    return 0


def default_path(results: report.Results) -> Path:
    return device.results_folder() / f"{device.slug(results['device'])}-{results['date'][:10]}.json"


def write_readme() -> int:
    folder = device.results_folder()
    readme = folder.parent.parent / "README.md"
    try:
        source = report.newest(folder)
        report.rewrite_readme(readme, json.loads(source.read_text()))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{readme}: table from {source.name}")
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
