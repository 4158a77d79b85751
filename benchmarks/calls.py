"""What a single call takes before it computes: each kernel on arrays of one number. In a process of its own, where
PyTorch's threads disturb nobody: `python -m fusedmlp.benchmarks.calls THREADS ROUNDS` prints the rows as JSON."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from fusedmlp.benchmarks.device import environment
from fusedmlp.benchmarks.forms import Library, NumPy, PyTorch
from fusedmlp.benchmarks.harness import Spread

LIMIT = 3e-6  # seconds of overhead
TURN = 0.02  # seconds


class Package(Library):
    """This library by its package's functions, which find the backend of each call."""

    def __getattr__(self, kernel: str) -> Any:
        found = self.__dict__[kernel] = getattr(self.fm, kernel)  # as a caller would have it at hand
        return found


def calls(lib: Any) -> dict[str, Callable[[], Any]]:
    """A call of each kernel by one library, by the kernel's name."""
    x, weight, gradient = (lib.array(np.full((1, 1), value, np.float32)) for value in (0.5, 0.25, 1e-3))
    bias, label = lib.array(np.zeros(1, np.float32)), lib.array(np.zeros(1, np.int64))
    return {
        "dense_forward": lambda: lib.dense_forward(x, weight, bias, "relu"),
        "dense_backward": lambda: lib.dense_backward(x, x, weight, x, "relu"),
        "activate": lambda: lib.activate(x, "relu"),
        "activation_backward": lambda: lib.activation_backward(x, x, "relu"),
        "softmax": lambda: lib.softmax(x),
        "mse": lambda: lib.mse(x, weight),
        "cross_entropy": lambda: lib.cross_entropy(x, label),
        "SGD.update_inplace": lib.optimizer("SGD", lib.array(np.ones((1, 1), np.float32)), gradient),
        "Adam.update_inplace": lib.optimizer("Adam", lib.array(np.ones((1, 1), np.float32)), gradient),
    }


def seconds(call: Callable[[], Any], times: int) -> float:
    """Of one of so many calls."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def warmed(call: Callable[[], Any]) -> int:
    """How many calls a turn has."""
    seconds(call, 100)
    return int(TURN / seconds(call, 100)) + 1


def rows(threads: int, rounds: int) -> list[dict[str, Any]]:
    """For each kernel and library the seconds of a call, the libraries taking turns."""
    libraries = {"ours": Package("cpu", threads), "numpy": NumPy()}
    with suppress(ImportError):
        libraries["pytorch"] = PyTorch(threads)
    by_library = {name: calls(lib) for name, lib in libraries.items()}
    found = []
    for kernel in by_library["ours"]:
        ways = {name: made[kernel] for name, made in by_library.items()}
        times = {name: warmed(call) for name, call in ways.items()}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, call in ways.items():
                taken[name].append(seconds(call, times[name]))
        timed = {"kernel": kernel, "status": "timed", "note": ""}
        found += [timed | {"peer": name, "seconds": asdict(Spread.of(t))} for name, t in taken.items()]
    return found


def measure(threads: int, rounds: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "fusedmlp.benchmarks.calls", str(threads), str(rounds)]
    of_process = environment(threads) | {"FUSEDMLP_BACKEND": "cpu"}
    done = subprocess.run(command, env=of_process, capture_output=True, text=True)
    if done.returncode:
        (said,) = done.stderr.strip().splitlines()[-1:] or ["no word"]
        return [{"kernel": "single calls", "peer": "ours", "status": "failed", "note": said}]
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(rows(int(sys.argv[1]), int(sys.argv[2]))))
