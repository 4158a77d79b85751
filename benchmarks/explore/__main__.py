"""`python -m fusedmlp.benchmarks.explore`: run every section, print a table, keep the results."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fusedmlp.benchmarks.explore import runner
from fusedmlp.benchmarks.explore.notebook import table
from fusedmlp.benchmarks.explore.sections import SECTIONS

SECONDS = 400.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m fusedmlp.benchmarks.explore",
        description="Measure what a GPU and its libraries can do: barriers, graphs, launches, products, peers.",
    )
    add = made.add_argument
    names = list(SECTIONS)
    add("--sections", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--seconds", type=float, default=SECONDS, help="for all of them together (%(default)s)")
    add("--out", type=Path, metavar="FOLDER", help="where the results go (benchmarks/results/)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    results = runner.run_sections(SECTIONS, options.sections, options.seconds)
    rows = runner.rows_in(results)
    path = runner.keep(results, "explore", options.out)
    print(f"\n{runner.head(results)}\n{table(rows)}\nwrote {path}")
    return int(not any(row.spread for row in rows))


if __name__ == "__main__":
    sys.exit(main())
