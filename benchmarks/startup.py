"""Start-up: what a fresh process pays, over a floor that is measured in turns with it."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.device import environment
from fusedmlp.benchmarks.harness import Spread

FEWEST_ROUNDS = 7
IMPORT_LIMIT = 0.010  # seconds over a bare interpreter
FIRST_EPOCH_LIMIT = 0.3  # seconds over importing Numba and calling one cached function
COMPILE_LIMIT = 30.0  # seconds over the same, with no kernel on disk
COLD_ROUNDS = 3  # twenty seconds each

BARE = "pass\n"
IMPORT = "import fusedmlp\n"
CACHED_CALL = """
import numba
import numpy as np

@numba.njit("float32(float32[::1])", cache=True)
def total(x):
    result = np.float32(0)
    for value in x:
        result += value
    return result

total(np.ones(64, np.float32))
"""
FIRST_EPOCH = """
import numpy as np
import fusedmlp as fm

rng = np.random.default_rng(0)
x = rng.standard_normal((1024, 64), dtype=np.float32)
y = rng.integers(0, 10, 1024)
model = fm.MLP([64, 64, 10], activation="relu", backend="cpu")
model.fit(x, y, loss="cross_entropy", epochs=1, batch_size=32, progress=False)
"""


@dataclass(frozen=True)
class Start:
    """One figure: a script over a floor, at most `limit` seconds; `cold`: with empty folders for kernels and rates."""

    case: str
    floor: str
    script: str
    limit: float
    cold: bool = False


STARTS = (
    Start("import", BARE, IMPORT, IMPORT_LIMIT),
    Start("first epoch", CACHED_CALL, FIRST_EPOCH, FIRST_EPOCH_LIMIT),
    Start("first epoch, kernels not compiled yet", CACHED_CALL, FIRST_EPOCH, COMPILE_LIMIT, cold=True),
)


def seconds(script: Path, threads: int, **variables: str) -> float:
    """From the start of a fresh interpreter to its end, with these environment variables besides."""
    began = time.perf_counter()
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment(threads) | variables, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"ended with {done.returncode}")
    return took


def pairs(start: Start, threads: int, rounds: int) -> Iterator[tuple[float, float]]:
    """(floor, script) in turns. What is not cold runs once before, which fills the disk's caches."""
    with tempfile.TemporaryDirectory() as folder:
        floor, script = Path(folder, "floor.py"), Path(folder, "script.py")
        floor.write_text(start.floor)
        script.write_text(start.script)
        seconds(floor, threads)
        if not start.cold:
            seconds(script, threads)
        for number in range(rounds):
            empty = str(Path(folder, f"empty {number}"))
            fresh = {"NUMBA_CACHE_DIR": empty, "FUSEDMLP_CACHE_DIR": empty} if start.cold else {}
            yield seconds(floor, threads), seconds(script, threads, **fresh)


def measure(threads: int, rounds: int = FEWEST_ROUNDS, cold: bool = True) -> list[dict[str, Any]]:
    """A row for each figure, without the cold ones if they are not asked for: seconds over the floor (percentiles of
    neighbouring runs), and the floor's median."""
    rows = []
    for start in STARTS:
        if start.cold and not cold:
            continue
        row: dict[str, Any] = {"case": start.case, "limit": start.limit, "status": "timed", "note": ""}
        try:
            timed = list(pairs(start, threads, COLD_ROUNDS if start.cold else rounds))
            row["seconds"] = asdict(Spread.of([mine - least for least, mine in timed]))
            row["floor"] = Spread.of([least for least, _ in timed]).p50
        except RuntimeError as cause:
            row |= {"status": "failed", "note": str(cause)}
        rows.append(row)
    return rows
