"""`python -m fusedmlp.benchmarks.explore`: run every section, print a table, keep the results."""

import argparse
import sys
from collections.abc import Sequence

from fusedmlp.benchmarks.explore import runner
from fusedmlp.benchmarks.explore.notebook import table
from fusedmlp.benchmarks.explore.sections import SECTIONS

SECONDS = 400.0


def parser() -> argparse.ArgumentParser:
    description = "Measure what a GPU and its libraries can do: barriers, graphs, launches, products, peers."
    return runner.parser("python -m fusedmlp.benchmarks.explore", description, SECTIONS, SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if runner.refused():
        return 1
    results, rows, path = runner.run_and_keep(SECTIONS, options, "explore")
    print(f"\n{runner.head(results)}\n{table(rows)}\nwrote {path}")
    return int(not any(row.spread for row in rows))


if __name__ == "__main__":
    sys.exit(main())
