"""The tests on the device, several processes of pytest at once, and compute-sanitizer over every kernel."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fusedmlp.benchmarks import device
from fusedmlp.benchmarks.explore.notebook import Notebook

THREADS = 2  # of each process: most of its time goes into compiling, which has one
TIMED_OUT = 124
MOST_NAMED = 30  # failed tests of one process that have rows of their own
NEEDED = ("pytest", "scipy", "torch")  # by the tests: PyTorch is their oracle
REST = ("activations", "bad_input", "fused_bytes", "inputs", "optimizers", "parity", "types")


@dataclass(frozen=True)
class Suite:
    """Files or folders below tests/, and which of their tests: pytest's -k."""

    paths: tuple[str, ...]
    only: str = ""


def conformance(*names: str, only: str) -> Suite:
    return Suite(tuple(f"conformance/test_{name}.py" for name in names), f"cuda and {only}")


# Each compiles kernels of its own, which takes seconds apiece: they are cut so that all end at about the same time.
SUITES = {
    "conformance, dense layers in float32": conformance("dense", only="not float64"),
    "conformance, losses in float32": conformance("losses", only="not float64"),
    "conformance, the rest in float32": conformance(*REST, only="not float64"),
    "conformance, dense layers in float64": conformance("dense", only="float64"),
    "conformance, losses in float64": conformance("losses", only="float64"),
    "conformance, the rest in float64": conformance(*REST, only="float64"),
    "trainings by steps": Suite(("gpu/test_trajectories_gpu.py",), "steps"),
    "trainings by instructions": Suite(("gpu/test_trajectories_gpu.py",), "instructions"),
    "trainings with a library's products": Suite(("gpu/test_trajectories_gpu.py",), "library"),
    "trainings, the rest": Suite(("gpu/test_trajectories_gpu.py",), "not (steps or instructions or library)"),
    "interoperation": Suite(("gpu/test_interoperation.py",)),
    "products by cuBLASLt": Suite(("cuda/test_products.py",), "test_on_a_device"),
}


def explore(notes: Notebook, suites: dict[str, Suite] | None = None) -> None:
    """Every suite, as many at once as there are processors for."""
    chosen = SUITES if suites is None else suites
    if not device.in_clone():
        notes.skipped("the suites", "the tests are in a checkout only")
        return
    if remedy := device.lacking(*NEEDED):
        notes.failed("the suites", ModuleNotFoundError(f"not installed: {remedy}"))
        return
    at_once = max(1, len(os.sched_getaffinity(0)) - 2)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(at_once) as pool:
        runs = {name: pool.submit(run, suite, Path(folder, str(k)), notes) for k, (name, suite) in
                enumerate(chosen.items())}  # fmt: skip
        for name, done in runs.items():
            notes.attempt(name, report, notes, name, done.result)


def run(suite: Suite, file: Path, notes: Notebook) -> tuple[list[dict[str, str]], str]:
    """How each test ended, and what went wrong with the process itself; empty where nothing did."""
    environment = device.environment(THREADS) | {
        "FUSEDMLP_TEST_BACKENDS": "cuda",
        "FUSEDMLP_REQUIRE_BACKENDS": "cuda",
    }
    paths = [str(device.ROOT / "tests" / path) for path in suite.paths]
    command = [sys.executable, "-m", "fusedmlp.benchmarks.gpu.pytests", str(file), *paths]
    command += ["-k", suite.only] if suite.only else []
    code, lines = finished(command, environment, notes.left)
    ended = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    # 1 says that tests failed, which they say themselves.
    fine = code == 0 or (code == 1 and any(test["outcome"] == "failed" for test in ended))
    return ended, "" if fine else last_words(code, lines)


def report(notes: Notebook, name: str, result: Callable[[], tuple[list[dict[str, str]], str]]) -> None:
    ended, wrong = result()
    counts = {outcome: sum(test["outcome"] == outcome for test in ended) for outcome in ("passed", "failed", "skipped")}
    failed = [test for test in ended if test["outcome"] == "failed"]
    for test in failed[:MOST_NAMED]:
        notes.failed(test["name"], AssertionError(test["note"]))
    for note in sorted({test["note"] for test in ended if test["outcome"] == "skipped"}):
        notes.skipped(f"{name}: some of its tests", note)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no test ended"
    if wrong or failed or not ended:
        notes.failed(name, RuntimeError("; ".join(filter(None, [said, wrong]))))
    else:
        notes.found(name, said)


def finished(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int, list[str]]:
    """The status of a process, and the lines that it said; it is ended when its time is up."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=device.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=max(1.0, seconds),
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT, [f"it took more than {seconds:.0f} s"]
    return done.returncode, [line for line in done.stdout.splitlines() if line.strip()]


def last_words(code: int, lines: list[str]) -> str:
    return f"ended with {code}: {' / '.join(lines[-3:])}"


# NVIDIA's tools by what they look for. What CUDA's functions answer is the business of those who ask.
TOOLS = {
    "memcheck": ["--tool", "memcheck", "--report-api-errors", "no"],
    "racecheck": ["--tool", "racecheck", "--racecheck-report", "all"],
}
FOUND = 86  # the status with which the tool says that it found something
TOUCH = "import sys; from fusedmlp.benchmarks.gpu import touch; sys.exit(touch.main())"
SAYS = "========="  # begins each of its lines


def sanitize(notes: Notebook) -> None:
    """Every kernel once: by itself, which compiles them, and then under each tool."""
    environment = device.environment(THREADS)
    kernels = [sys.executable, "-c", TOUCH]
    code, lines = finished(kernels, environment, notes.left)
    if code:
        notes.failed("every kernel once", RuntimeError(last_words(code, lines)))
        return
    notes.found("every kernel once", lines[-1])
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        notes.skipped("compute-sanitizer", "it is not on PATH")
        return
    with ThreadPoolExecutor(len(TOOLS)) as pool:

        def start(options: list[str]) -> tuple[int, list[str]]:
            return finished([sanitizer, *options, "--error-exitcode", str(FOUND), *kernels], environment, notes.left)

        for name, (code, lines) in zip(TOOLS, pool.map(start, TOOLS.values()), strict=True):
            said = [line.removeprefix(SAYS).strip() for line in lines if line.startswith(SAYS)]
            summary = [line for line in said if " SUMMARY: " in line]
            if code == 0 and summary:
                notes.found(name, summary[-1])
            elif code == FOUND:
                notes.failed(name, RuntimeError(" / ".join([*summary, *said[1:5]])))
            else:
                notes.failed(name, RuntimeError(last_words(code, lines)))
