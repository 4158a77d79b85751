# Needs Python 3.11 or newer with pip and venv, and make: nothing else. `make PYTHON=python3.12 test` chooses another
# interpreter; after a first run, `make clean` before that.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test widths lint format bench targets gpu gpu-explore clean
.NOTPARALLEL:  # one environment serves all of them

help:
	@echo "make demo | test | widths | lint | format | bench | targets | gpu | gpu-explore | clean"

demo: .venv/with-sklearn
	$(BIN)/fusedmlp demo

test: .venv/with-test
	$(BIN)/python tests/compiled.py
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 -m 'not alone'
	$(BIN)/pytest -m alone

# The processors that an x86-64 machine can stand for, by Numba's names and features: with vectors of 256 bits, and of 128.
# Everything is compiled anew for each, so this takes as long as `make test` does. What asserts the vectors of this very
# machine chooses its own.
HASWELL := NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt
PLAIN := NUMBA_CPU_NAME=x86-64 NUMBA_CPU_FEATURES=+sse2
widths: .venv/with-test
	FUSEDMLP_TEST_BACKENDS=cpu $(HASWELL) $(BIN)/pytest tests/conformance tests/system
	FUSEDMLP_TEST_BACKENDS=cpu $(PLAIN) $(BIN)/pytest tests/conformance tests/system

# mypy reads a fresh copy, laid out as an install lays it out: type checkers do not follow an editable install.
# All of build/ goes first, for setuptools would put a module that has since been deleted back from build/lib.
lint: .venv/with-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

format: .venv/with-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/with-bench
	$(BIN)/python -m fusedmlp.benchmarks

# Fails where a run falls short of its targets. `make targets RESULTS=file.json` reads a run, else one is made first.
targets: .venv/with-bench
	$(BIN)/python -m fusedmlp.benchmarks.targets $(RESULTS)

# In an environment without packages, what to install in place of a traceback.
define NEEDS
import sys
from importlib.util import find_spec
gone = [name for name in ("numpy", "scipy", "numba", "threadpoolctl") if find_spec(name) is None]
if gone:
    sys.exit(f"nothing was run: {sys.executable} has no " + ", ".join(gone) + "; pip install -e '.[cuda13]'")
endef
export NEEDS

# On a machine with a GPU, in the environment that is there: its CUDA packages are that machine's. Everything that only
# a GPU can show, in less than 8 minutes: the tests on the device, compute-sanitizer, trainings beside their peers,
# kernels beside what the card can do.
gpu:
	@$(PYTHON) -c "$$NEEDS"
	PYTHONPATH=. $(PYTHON) -m fusedmlp.benchmarks.gpu

# What a GPU and its libraries can do, whatever this library makes of it.
gpu-explore:
	@$(PYTHON) -c "$$NEEDS"
	PYTHONPATH=. $(PYTHON) -m fusedmlp.benchmarks.explore

clean:
	rm -rf .venv build dist *.egg-info .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find fusedmlp kernels backends model benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# Each set of extras is installed when first needed, and again when what is to be installed has changed. Editable:
# an edit counts at once, and tests/test_packaging.py tries what a real install would hold.
.venv/with-%: .venv/made pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fusedmlp needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	           "Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@touch $@
