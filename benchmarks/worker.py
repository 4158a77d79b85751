"""One peer's own process: it answers each line of JSON on stdin with one on stdout, and rests in between.

    -> {"do": "prepare", "case": "mnist", "column": "sgd", "losses": 20, "turn": 0.2}
    <- {"losses": [...], "steps": 450}            the steps of one turn, of about `turn` seconds, `fewest` (3) at least
    -> {"do": "run"}                              or so many "steps"
    <- {"seconds": 4.1e-4, "host": 4.1e-4, "resting": 0.001}
                                                  seconds a step, by the training's clock and by the host's until the
                                                  call came back; CPU seconds a second since the last answer
    <- {"failed": "TypeError: ..."}               in place of either

A request to prepare may name another task than "train": "infer", to run the network without training it, or "dead",
to train it after its hidden units have died. The first line is {"ready": true} or {"missing": "..."}. End of input ends
the process.
"""

import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fusedmlp.backends.cpu.threads import core_cpus
from fusedmlp.benchmarks.cases import ALL, COLUMNS
from fusedmlp.benchmarks.explore.clocks import HostClock
from fusedmlp.benchmarks.peers import PACKAGES, Inference, Training

FEWEST_STEPS = 3
# A momentum of 0.9 falls from 1 to the smallest subnormal number in 980 steps.
DECAY_STEPS = 1200


def steps_per_turn(training: Training, turn: float, fewest: int = FEWEST_STEPS) -> int:
    """How many steps take about `turn` seconds; the trial runs are the warm-up too.

    One trial may be the first of its length, which a compiling peer compiles: the second is believed.
    """
    steps = fewest
    while True:
        for _ in range(2):
            done, seconds, _ = turn_of(training, steps)
        if seconds > turn / 4:
            return max(fewest, math.ceil(done * turn / seconds))
        steps = max(2 * done, math.ceil(done * turn / (2 * max(seconds, 1e-6))))


def turn_of(training: Training, steps: int) -> tuple[int, float, float]:
    """(steps done, seconds by the training's own clock if it has one, seconds of the host until the call came back)."""
    clock: HostClock = getattr(training, "clock", HostClock())
    done, host = 0, 0.0

    def run() -> None:
        nonlocal done, host
        began = time.perf_counter()
        done = training.run(steps)
        host = time.perf_counter() - began

    seconds = clock.elapsed(run)
    return done, seconds, host


Prepare = Callable[[dict[str, Any]], Training]  # from a request


def serve(load: Callable[[], Prepare], package: str, threads: int) -> None:
    """Answer until the input ends. What libraries print goes to stderr: stdout belongs to the protocol.

    load     imports a peer; where that fails, `package` is what to install
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")

    cpus = core_cpus()
    if hasattr(os, "sched_setaffinity") and threads < len(os.sched_getaffinity(0)) and threads <= len(cpus):
        os.sched_setaffinity(0, cpus[:threads])
    try:
        prepare = load()
    except ImportError as error:
        answer(missing=f"{error}: pip install {package}")
        return
    answer(ready=True)

    training: Training | None = None
    steps = 0
    rested_from = time.perf_counter(), time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu = time.perf_counter() - rested_from[0], time.process_time() - rested_from[1]
        try:
            if request["do"] == "prepare":
                training = None
                training = prepare(request)
                losses = training.first_losses(request["losses"])
                if request.get("task") == "dead":
                    training.kill()
                    training.run(DECAY_STEPS)
                steps = steps_per_turn(training, request["turn"], request.get("fewest", FEWEST_STEPS))
                reply: dict[str, object] = {"losses": losses, "steps": steps}
            else:
                if training is None:
                    raise RuntimeError("nothing is prepared")
                done, seconds, host = turn_of(training, request.get("steps", steps))
                reply = {"seconds": seconds / done, "host": host / done, "resting": cpu / wall}
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            reply = {"failed": f"{type(error).__name__}: {said[0]}"}
        rested_from = time.perf_counter(), time.process_time()
        answer(**reply)


def prepare_of(peer: str, mode: str, threads: int) -> Prepare:
    """Of one of peers/."""
    module = importlib.import_module(f"fusedmlp.benchmarks.peers.{peer}")

    def prepare(request: dict[str, Any]) -> Training:
        case = ALL[request["case"]]
        if request.get("task") == "infer":
            return Inference(module.predictor(case, threads))
        return module.prepare(case, COLUMNS[request["column"]], mode, threads)

    return prepare


if __name__ == "__main__":
    asked, way, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    serve(lambda: prepare_of(asked, way, count), PACKAGES[asked], count)
