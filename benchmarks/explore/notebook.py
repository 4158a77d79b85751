"""What was measured: a row for each figure, kept as soon as it is known."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fusedmlp.benchmarks.harness import Spread
from fusedmlp.benchmarks.report import significant, spread

Status = Literal["measured", "wrong", "found", "failed", "skipped"]


@dataclass(frozen=True)
class Row:
    """One figure, or one finding in words. Names of the form "subject: variant" share a line of the table.

    status   "measured"; "wrong": measured, but the result was not right, as `note` says; "found": a finding, which is
             `note`; "failed" and "skipped": `note` says why
    spread   in `unit`, over `repetitions`
    """

    section: str
    name: str
    status: Status
    unit: str = ""
    spread: Spread | None = None
    repetitions: int | None = None
    note: str = ""


def row_of(fields: dict[str, Any]) -> Row:
    """The row that `asdict` took apart."""
    return Row(**{**fields, "spread": fields["spread"] and Spread(**fields["spread"])})


def line_of(row: Row) -> str:
    """A row in one line of text."""
    figure = f"{spread(asdict(row.spread))} {row.unit}" if row.spread else ""
    status = row.status if row.status not in ("measured", "found") else ""
    return f"{row.section:12} {row.name:60} " + "; ".join(filter(None, [figure, status, row.note]))


def table(rows: list[Row]) -> str:
    """The medians, a line for each subject and unit; below it what was found in words, was wrong, failed or skipped, a
    line for each cause."""
    figures: dict[tuple[str, str, str], list[str]] = {}
    words: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.spread:
            subject, _, variant = row.name.partition(": ")
            mark = "" if row.status == "measured" else " (wrong)"
            figure = f"{variant} {significant(row.spread.p50)}{mark}".strip()
            figures.setdefault((row.section, subject, row.unit), []).append(figure)
        if row.status != "measured":
            words.setdefault((row.section, row.status, row.note), []).append(row.name)
    lines = [f"{section}: {subject}, {unit}: {', '.join(parts)}" for (section, subject, unit), parts in figures.items()]
    lines.append("")
    for (section, status, note), names in words.items():
        name = names[0] if len(names) == 1 else f"{len(names)} rows, first {names[0]}"
        lines.append(f"{section}: {name}: {note if status == 'found' else f'{status}: {note}'}")
    return "\n".join(lines)


class Notebook:
    """Takes the rows of one section, which has until `end` (time.monotonic); each is a line of JSON in `file`."""

    def __init__(self, section: str, file: Path, end: float) -> None:
        self.section = section
        self.file = file
        self.end = end

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def measured(self, name: str, unit: str, values: list[float], wrong: str = "", note: str = "") -> None:
        """`wrong` says what is wrong with what was computed; empty where it is right."""
        self.spread(name, unit, Spread.of(values), len(values), wrong, note)

    def spread(self, name: str, unit: str, spread: Spread, repetitions: int, wrong: str = "", note: str = "") -> None:
        """As `measured`, of values whose spread is known."""
        status: Status = "wrong" if wrong else "measured"
        text = "; ".join(filter(None, [wrong, note]))
        self._write(Row(self.section, name, status, unit, spread, repetitions, text))

    def found(self, name: str, what: str) -> None:
        self._write(Row(self.section, name, "found", note=what))

    def failed(self, name: str, cause: BaseException) -> None:
        said = " ".join(str(cause).split())
        self._write(Row(self.section, name, "failed", note=f"{type(cause).__name__}: {said}"[:500]))

    def skipped(self, name: str, why: str) -> None:
        self._write(Row(self.section, name, "skipped", note=why))

    def attempt(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Do work(*arguments), which makes its own rows. If it fails that is a row of this name, and the section goes
        on."""
        if self.left < 0:
            self.skipped(name, "no time left")
            return
        try:
            work(*arguments)
        except Exception as cause:
            self.failed(name, cause)

    def _write(self, row: Row) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(line_of(row), flush=True)
