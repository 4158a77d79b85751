"""Start-up: what a fresh process pays, over a floor that is measured in turns with it."""

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.device import environment
from fusedmlp.benchmarks.harness import Spread

FEWEST_ROUNDS = 7
IMPORT_LIMIT = 0.010  # seconds over a bare interpreter
FIRST_EPOCH_LIMIT = 0.3  # seconds over importing Numba and calling one cached function

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


def seconds(script: Path, threads: int) -> float:
    """From the start of a fresh interpreter to its end."""
    began = time.perf_counter()
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(said[-1] if said else f"ended with {done.returncode}")
    return took


def measure(threads: int, rounds: int = FEWEST_ROUNDS) -> list[dict[str, Any]]:
    """A row for each figure: seconds over its floor (percentiles of neighbouring runs), the floor's median.

    A first pair of runs fills the disk's caches, the compiled kernels among them, and is dropped.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case, floor_code, code, limit in (
            ("import", BARE, IMPORT, IMPORT_LIMIT),
            ("first epoch", CACHED_CALL, FIRST_EPOCH, FIRST_EPOCH_LIMIT),
        ):
            floor, ours = Path(folder, "floor.py"), Path(folder, "ours.py")
            floor.write_text(floor_code)
            ours.write_text(code)
            row: dict[str, Any] = {"case": case, "limit": limit, "status": "timed", "note": ""}
            try:
                pairs = [(seconds(floor, threads), seconds(ours, threads)) for _ in range(rounds + 1)][1:]
                row["seconds"] = asdict(Spread.of([mine - least for least, mine in pairs]))
                row["floor"] = Spread.of([least for least, _ in pairs]).p50
            except RuntimeError as cause:
                row |= {"status": "failed", "note": str(cause)}
            rows.append(row)
    return rows
