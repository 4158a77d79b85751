"""Peak resident memory of a training, in a process of its own: above its data, and above what the process had after its
imports and a small training of the same kind, which loads kernels and starts threads.

`python -m fusedmlp.benchmarks.memory PEER MODE CASE OPTIMIZER THREADS` prints one of them as JSON.
"""

import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fusedmlp.benchmarks.cases import CASES, COLUMNS, FLOAT_BYTES, INDEX_BYTES, Case, Column
from fusedmlp.benchmarks.device import environment
from fusedmlp.benchmarks.peers import OURS, PACKAGES

CONTESTANTS = (OURS, ("pytorch", "fused"), ("jax", "scan"))
MEASURED = (("mid", "sgd"), ("mid", "adam"), ("wide", "adam"), ("vocabulary", "adam"))
SMALL = CASES["small"]
STEPS = 5
LIMIT = 300.0  # seconds
STATUS, REFERENCES, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


def resident(figure: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" at the most since the last `reset_peak`."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{figure}:")]
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    REFERENCES.write_text(RESET_PEAK)


def data_bytes(case: Case) -> int:
    """Of x and y as they come from random_data."""
    target = case.sizes[-1] * FLOAT_BYTES if case.loss == "mse" else INDEX_BYTES
    return case.rows * (case.sizes[0] * FLOAT_BYTES + target)


def last_cache_bytes() -> int:
    """Of the processor's last level; 0 where the system does not say."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * 1024 for size in sizes if size.endswith("K")), default=0)


def bound(training: Any, case: Case, column: Column) -> int:
    """The most bytes that our training may take: its parameters, gradients and slots; from the program's layout the
    work space, which is a batch's activations, their gradients and partial sums; and packing buffers of the last
    cache's size."""
    program = training.model._executor._entered
    work = program.layout.length - program.carried
    return FLOAT_BYTES * (case.parameters * (2 + column.slots) + work) + last_cache_bytes()


def used(peer: str, mode: str, case: Case, column: Column, threads: int) -> dict[str, int]:
    """Of this process: the peak in bytes, and for us its bound."""
    module = importlib.import_module(f"fusedmlp.benchmarks.peers.{peer}")
    module.prepare(SMALL, column, mode, threads).run(STEPS)
    gc.collect()
    before = resident("VmRSS")
    training = module.prepare(case, column, mode, threads)
    gc.collect()
    reset_peak()  # the given weights, which are the harness's, are gone
    training.run(STEPS)
    peak = {"bytes": resident("VmHWM") - before - data_bytes(case)}
    return peak | ({"bound": bound(training, case, column)} if peer == "ours" else {})


def measure(threads: int, quick: bool = False) -> list[dict[str, Any]]:
    """A row for each case, optimizer and peer."""
    rows = []
    for case, optimizer in MEASURED[:1] if quick else MEASURED:
        for peer, mode in CONTESTANTS:
            row: dict[str, Any] = {"case": case, "optimizer": optimizer, "peer": peer, "mode": mode}
            row |= {"parameter_bytes": FLOAT_BYTES * CASES[case].parameters}
            rows.append(row | in_own_process(peer, mode, case, optimizer, threads))
    return rows


def in_own_process(peer: str, mode: str, case: str, column: str, threads: int) -> dict[str, Any]:
    if not REFERENCES.exists():
        return {"status": "missing", "note": f"no {REFERENCES} on this system"}
    command = [sys.executable, "-m", "fusedmlp.benchmarks.memory", peer, mode, case, column, str(threads)]
    try:
        done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "note": f"no answer within {LIMIT:.0f} s"}
    if done.returncode == 0:
        return {"status": "measured", "note": ""} | json.loads(done.stdout.splitlines()[-1])
    said = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    if "ModuleNotFoundError" in said:
        return {"status": "missing", "note": f"{said}: pip install {PACKAGES[peer]}"}
    return {"status": "failed", "note": said}


if __name__ == "__main__":
    who, way, what, how, count = sys.argv[1:]
    print(json.dumps(used(who, way, CASES[what], COLUMNS[how], int(count))))
