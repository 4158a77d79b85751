"""The conformance suite on the stand-in for a device (tests/stand_in.py), and faults planted there, which it finds.

The simulator must be chosen before Numba is imported, hence the processes.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SUITE = TESTS / "conformance"

# The files of a process, and how many rows of them run at least.
PROCESSES = {
    "dense": (["dense"], 430),
    "losses": (["losses"], 490),
    "the rest": (["activations", "bad_input", "fused_bytes", "inputs", "optimizers", "parity", "types"], 830),
}
BY_A_LIBRARY = "from fusedmlp.backends.cuda import backend; backend.PRODUCTS_OF_A_LIBRARY = 0"
LEAST_OF_DENSE_LAYERS = 450
ON_THE_HOST = {"test_scratch_fits_the_last_cache"}  # the test itself says why


def run(*arguments, before=""):
    """A run of pytest on the stand-in, once the code `before` has run."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "FUSEDMLP_TEST_BACKENDS": "simulator"}
    code = f"import sys, pytest\nsys.path.insert(0, {str(TESTS)!r})\n{before}\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent)


def asking_for_a_backend(path):
    """The names of the tests of a file that run on a backend."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    return {test.name for test in tests if "backend" in [argument.arg for argument in test.args.args]}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("process", PROCESSES)
def test_suite_on_the_stand_in(process):
    """Every test that asks for a backend has rows that pass; none is skipped, and none is left out unsaid."""
    names, least = PROCESSES[process]
    files = [SUITE / f"test_{name}.py" for name in names]
    done = run("-v", "--tb=short", "-k", "simulator", *files)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.findall(r"::(test_\w+)\[simulator.* PASSED", done.stdout)
    assert set(passed) == set().union(*map(asking_for_a_backend, files)) - ON_THE_HOST
    assert len(passed) >= least
    assert re.search(rf"= {len(passed)} passed, \d+ deselected in ", done.stdout), done.stdout[-500:]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dense_layers_by_a_library():
    """The rows of dense layers where what stands in for cuBLASLt makes products of every size."""
    tests = "simulator and (dense or test_out or one_row) and not central"
    done = run("-q", "--tb=short", "-k", tests, SUITE, before=BY_A_LIBRARY)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(re.search(r"^(\d+) passed, \d+ deselected in ", done.stdout, re.MULTILINE)[1])
    assert passed >= LEAST_OF_DENSE_LAYERS


def test_every_file_is_run():
    named = [f"test_{name}.py" for names, _ in PROCESSES.values() for name in names]
    assert sorted(named) == sorted(path.name for path in SUITE.glob("test_*.py"))


# What is planted, the tests among which it must be found, and what is said of it.
FAULTS = {
    "a word means something else": (
        "import stand_in\nstand_in.PLAIN = dict(stand_in.PLAIN, exp=lambda z: z * 0 + 1)",
        "test_dense_forward and 7x13x5 and sigmoid",
        "tolerance",
    ),
    "a sum over lanes is one lane's": (
        "import stand_in\n"
        "words_for = stand_in.words_for\n"
        "stand_in.words_for = lambda *rest: words_for(*rest) | {'row_sum': lambda c, part, count: part}",
        "test_softmax_kernels and 7x13",
        "tolerance",
    ),
    "an input is written": (
        "import stand_in\n"
        "launch = stand_in.StandIn.launch\n"
        "def scribble(driver, entry, kind, blocks, arguments):\n"
        "    launch(driver, entry, kind, blocks, arguments)\n"
        "    arguments[1][-1, -1] += 1\n"
        "stand_in.StandIn.launch = scribble",
        "test_layout and activate and not read_only",
        "not equal",
    ),
    "an array too many": (
        "import numpy as np\n"
        "import stand_in\n"
        "launch = stand_in.SimulatedBackend.launch\n"
        "def wasteful(backend, body, dtype, workers, *arguments):\n"
        "    backend.memory.empty(1, dtype)\n"
        "    return launch(backend, body, dtype, workers, *arguments)\n"
        "stand_in.SimulatedBackend.launch = wasteful",
        "test_kernel_allocates_its_results",
        "allocates",
    ),
    "an array of the host reaches a kernel": (
        "import numpy as np\n"
        "import stand_in\n"
        "stand_in.StandInMemory.view = lambda memory, name, value, dtype='': np.asarray(value)",
        "test_activate and 7x13",
        "is given arrays of the host",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault):
    before, tests, words = FAULTS[fault]
    done = run("-q", "-k", f"simulator and {tests}", SUITE, before=before)
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert words in done.stdout, done.stdout[-2000:]
