"""First on PYTHONPATH, with NUMBA_ENABLE_CUDASIM=1, this makes every process of `python -m fusedmlp.benchmarks.gpu` a
rehearsal: what stands in for a device, sizes that mean nothing, PyTorch on the processor, and no JAX.

It is imported at the start of each Python process, those that only ask for something small included.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
sys.modules["jax"] = None  # an import of it fails

from fake_gpu import StandIn  # noqa: E402
from fusedmlp.benchmarks.cases import COLUMNS, Case  # noqa: E402
from fusedmlp.benchmarks.explore import ceilings, clocks, gpu, trainings  # noqa: E402
from fusedmlp.benchmarks.gpu import contest, kernels, suites, touch  # noqa: E402
from stand_in import stand_in_for_cuda  # noqa: E402

stand_in_for_cuda()
touch.BLOCKS = 1  # a barrier of several would be silently wrong in the simulator
touch.without_pool = lambda: None

gpu.Gpu = ceilings.Gpu = StandIn
gpu.HOST_CALLS = 2
gpu.Gpu.warm.__kwdefaults__["seconds"] = 0.0
gpu.Gpu.times.__defaults__ = (1, 3, 0.0)
gpu.Gpu.host_times.__defaults__ = (2,)
ceilings.COPIED_BYTES, ceilings.RANDOM_BYTES, ceilings.REPETITIONS = 1 << 16, 1 << 14, 3
ceilings.copy.__defaults__ = (1 << 16,)
ceilings.explore.__defaults__ = (None, "cpu", 64)
ceilings.facts = lambda notes: notes.found("name", "The Rehearsal's Device")
ceilings.driver = lambda notes: notes.found("driver", "none")

clocks.CLOCKS.clear()
trainings.DEVICE = "cpu"
TINY = Case("tiny", (5, 6, 3), 4, "cross_entropy", steps=3)
trainings.TASKS = (trainings.Task(TINY, "tf32", COLUMNS["adam"]),)
contest.PEERS = (("pytorch", "graph of 8 steps"), ("jax", "scan"), ("pytorch", "eager"))
contest.ROUNDS, contest.TURN, contest.REST = 1, 0.001, 0.0

kernels.LAYERS, kernels.ROWS, kernels.PARAMETERS, kernels.ROUNDS = ((3, 5, 4),), ((4, 3),), (8,), 3

# Of the conformance suites, which tests/cuda/test_conformance.py runs in full, a few rows.
few = suites.conformance("dense", "losses", only="float32 and 7x5 and cross_entropy")
rest = {name: suite for name, suite in suites.SUITES.items() if not suite.paths[0].startswith("conformance/")}
products = rest["products by cuBLASLt"]
small = suites.Suite(products.paths, f"{products.only} and library and not (784 or 101)")
suites.SUITES = {"conformance, a few rows": few, **rest, "products by cuBLASLt": small}
