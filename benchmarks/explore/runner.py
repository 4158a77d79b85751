"""Sections one after the other, each in a process of its own with a time limit, and what is kept of them."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusedmlp.backends.cpu.threads import core_cpus
from fusedmlp.backends.cuda import driver
from fusedmlp.benchmarks import device
from fusedmlp.benchmarks.explore.notebook import Notebook, Row, row_of
from fusedmlp.benchmarks.explore.sections import Section

LEAST_SECONDS = 8.0  # a section with less to go is not begun
GRACE_SECONDS = 4.0  # from a section's own end to its being ended
PACKAGES = (
    *device.PACKAGES,
    *("cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "cuda-core", "cuda-bindings", "cuda-python"),
    *("nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-nvrtc", "nvmath-python", "triton"),
    *("jax-cuda13-plugin", "jax-cuda12-plugin"),
)


def parser(prog: str, description: str, sections: dict[str, Section], seconds: float) -> argparse.ArgumentParser:
    """The options that every script of sections takes."""
    made = argparse.ArgumentParser(prog=prog, description=description)
    add = made.add_argument
    names = list(sections)
    add("--sections", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--seconds", type=float, default=seconds, help="for all of them together (%(default)s)")
    add("--out", type=Path, metavar="FOLDER", help="where the results go (benchmarks/results/)")
    return made


def refused() -> bool:
    """Whether there is no device to run anything on; then the error stream says why, and what would help."""
    cause = driver.absence()
    if cause is not None:
        print(f"nothing was run, and nothing written: {cause}", file=sys.stderr)
    return cause is not None


def run_and_keep(
    sections: dict[str, Section], options: argparse.Namespace, name: str
) -> tuple[dict[str, Any], list[Row], Path]:
    """What the sections that the options name found, their rows, and the file of that name where it is kept."""
    results = run_sections(sections, options.sections, options.seconds)
    return results, rows_in(results), keep(results, name, options.out)


def run_sections(sections: dict[str, Section], names: Iterable[str], seconds: float) -> dict[str, Any]:
    """What these sections found within so many seconds, as it is kept."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        for name in names:
            left = began + seconds - time.monotonic()
            run_section(name, sections[name], file, min(sections[name].seconds, left - GRACE_SECONDS))
        rows = [row_of(json.loads(line)) for line in file.read_text().splitlines()]
    return document(rows, time.monotonic() - began)


def run_section(name: str, section: Section, file: Path, seconds: float) -> None:
    """One section in a process of its own, with all that it starts in turn: it and they are ended when its time is up.

    A section that ends badly has a row that says so, with the last line of what it said.
    """
    notes = Notebook(name, file, 0)
    if seconds < LEAST_SECONDS:
        notes.skipped("the section", "no time left")
        return
    print(f"\n{name}: at most {seconds:.0f} s", flush=True)
    environment = device.environment(len(core_cpus())) | section.environment
    environment |= {"NUMBA_CUDA_ARRAY_INTERFACE_SYNC": "0", "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}
    command = [sys.executable, "-m", "fusedmlp.benchmarks.explore.sections", name, section.module, section.function]
    command += [str(file), str(seconds)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, env=environment, stderr=errors, start_new_session=True)
        try:
            code = process.wait(seconds + GRACE_SECONDS)
            cause = f"its process ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            cause = f"it took more than {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if cause:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            notes.failed("the section", RuntimeError(f"{cause}; {said[-1] if said else 'it said nothing'}"))


def document(rows: list[Row], seconds: float) -> dict[str, Any]:
    """All that is kept."""
    facts = {row.name: row.note for row in rows if row.section == "device" and row.status == "found"}
    return {
        "device": facts.get("name", "unknown GPU"),
        "driver": facts.get("driver"),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": device.commit(),
        "versions": device.versions(PACKAGES),
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
    }


def rows_in(results: dict[str, Any]) -> list[Row]:
    return [row_of(row) for row in results["rows"]]


def keep(results: dict[str, Any], prefix: str, folder: Path | None) -> Path:
    """Writes the results where they are told apart by the device's name; returns the file."""
    path = (folder or device.results_folder()) / f"{prefix}-{device.slug(results['device'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def head(results: dict[str, Any]) -> str:
    what = f"{results['device']}, driver {results['driver']}, commit {results['commit'] or 'unknown'}"
    return f"{what}, {results['seconds']:.0f} s; medians"
