"""The command line: fusedmlp demo, info and bench."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="fusedmlp", description="Fused kernels for multilayer perceptrons.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="train a classifier of handwritten digits and see how well and how fast")
    demo.add_argument("--backend", default="auto", help="auto, python, cpu or cuda (auto)")
    commands.add_parser("info", help="versions, backends, threads and folders: what a bug report needs")
    commands.add_parser("bench", help="compare with PyTorch, JAX and scikit-learn (bench --help)", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    if options.command == "bench":
        from fusedmlp.benchmarks.__main__ import main as bench

        return bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "demo":
            from fusedmlp.model.demo import run

            run(options.backend)
        else:
            from fusedmlp.model.info import report

            print(report())
    except (ImportError, RuntimeError, ValueError) as error:  # what can be mended, said without a traceback
        print(f"fusedmlp {options.command}: {error}", file=sys.stderr)
        return 1
    return 0
