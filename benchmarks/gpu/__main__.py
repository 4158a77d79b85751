"""`python -m fusedmlp.benchmarks.gpu`: test, then measure; a table and what failed are printed, all is kept."""

import argparse
import sys
from collections.abc import Sequence

from fusedmlp.benchmarks import plots
from fusedmlp.benchmarks.explore import runner
from fusedmlp.benchmarks.explore.notebook import table
from fusedmlp.benchmarks.explore.sections import HERE as EXPLORE
from fusedmlp.benchmarks.explore.sections import JAX, Section
from fusedmlp.benchmarks.gpu import pictures

SECONDS = 465.0
HERE = "fusedmlp.benchmarks.gpu"
SECTIONS = {
    "device": Section(f"{EXPLORE}.ceilings", 40),
    "tests": Section(f"{HERE}.suites", 165),
    "sanitizer": Section(f"{HERE}.suites", 75, "sanitize"),
    "kernels": Section(f"{HERE}.kernels", 45),
    "trainings": Section(f"{HERE}.contest", 180, environment=JAX),
}


def parser() -> argparse.ArgumentParser:
    description = "Test and measure on the GPU of this machine. The status is 1 where anything failed."
    return runner.parser("python -m fusedmlp.benchmarks.gpu", description, SECTIONS, SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if runner.refused():
        return 1
    results, rows, path = runner.run_and_keep(SECTIONS, options, "gpu")
    written = [path, *(pictures.draw(results, path.with_suffix("")) if plots.available() else [])]
    print(f"\n{runner.head(results)}\n{table(rows)}")
    print("\n".join(f"wrote {file}" for file in written))
    if not plots.available():
        print("no plots: pip install matplotlib")
    faults = [row for row in rows if row.status in ("failed", "wrong")]
    for row in faults:
        print(f"FAILED {row.section}: {row.name}: {row.note}")
    print(f"{len(faults)} of {len(rows)} rows failed" if faults else f"{len(rows)} rows, none failed")
    return int(bool(faults) or not rows)


if __name__ == "__main__":
    sys.exit(main())
