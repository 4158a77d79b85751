"""The sections by name, and one of them in a process of its own:
`python -m fusedmlp.benchmarks.explore.sections NAME MODULE FUNCTION FILE SECONDS`."""

import importlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fusedmlp.benchmarks.explore.notebook import Notebook


@dataclass(frozen=True)
class Section:
    """A function of a module, the seconds that it may take, and variables of its process's environment."""

    module: str
    seconds: float
    function: str = "explore"
    environment: dict[str, str] = field(default_factory=dict)


JAX = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
BUFFERS = JAX | {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+DYNAMIC_SLICE_FUSION"}
HERE = "fusedmlp.benchmarks.explore"
SECTIONS = {
    "device": Section(f"{HERE}.ceilings", 45),
    "barriers": Section(f"{HERE}.barriers", 45),
    "graphs": Section(f"{HERE}.graphs", 45),
    "products": Section(f"{HERE}.products", 60),
    "mathematics": Section(f"{HERE}.mathematics", 45),
    "pytorch": Section(f"{HERE}.train_pytorch", 100),
    "jax": Section(f"{HERE}.train_jax", 110, environment=JAX),
    "compiled": Section(f"{HERE}.train_pytorch", 80, "explore_compiled"),
    "jax-buffers": Section(f"{HERE}.train_jax", 60, "explore_buffers", BUFFERS),
}


def run(name: str, module: str, function: str, file: Path, seconds: float) -> None:
    """Do one section here; a failure that ends it is its last row."""
    notes = Notebook(name, file, time.monotonic() + seconds)
    try:
        getattr(importlib.import_module(module), function)(notes)
    except Exception as cause:
        notes.failed("the section", cause)


if __name__ == "__main__":
    section, module, function, file, seconds = sys.argv[1:]
    run(section, module, function, Path(file), float(seconds))
