"""pytest, with a line of JSON for each test that ended: `python -m fusedmlp.benchmarks.gpu.pytests FILE ARGUMENTS`.

What this project's own settings ask of plugins is left out: of pytest itself nothing else is needed.
"""

import json
import sys
from pathlib import Path
from typing import Any


class Recorder:
    """A plugin; its file has what was known when a run is ended from outside."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._write(report, "failed")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._write(report, report.outcome)

    def _write(self, report: Any, outcome: str) -> None:
        note = report.longrepr[2] if isinstance(report.longrepr, tuple) else reason(report.longrepr)
        with self.file.open("a") as file:
            file.write(json.dumps({"name": report.nodeid, "outcome": outcome, "note": note}) + "\n")


def reason(shown: Any) -> str:
    """Why a test failed, in a line: the error's, which pytest marks with an E."""
    lines = str(shown or "").splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or [""])[0]


def main(file: Path, arguments: list[str]) -> int:
    import pytest

    own = ["-p", "no:cacheprovider", "-o", "addopts=", "-q", "--tb=short", "-W", "ignore"]
    return int(pytest.main([*own, *arguments], plugins=[Recorder(file)]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
