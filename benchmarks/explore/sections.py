"""The sections by name, and one of them in a process of its own: `python -m ...explore.sections NAME FILE SECONDS`."""

import importlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fusedmlp.benchmarks.explore.notebook import Notebook


@dataclass(frozen=True)
class Section:
    """A function of a module here, the seconds that it may take, and variables of its process's environment."""

    module: str
    seconds: float
    function: str = "explore"
    environment: dict[str, str] = field(default_factory=dict)


JAX = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
BUFFERS = JAX | {"XLA_FLAGS": "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+DYNAMIC_SLICE_FUSION"}
SECTIONS = {
    "device": Section("ceilings", 45),
    "barriers": Section("barriers", 45),
    "graphs": Section("graphs", 45),
    "products": Section("products", 60),
    "mathematics": Section("mathematics", 45),
    "pytorch": Section("train_pytorch", 100),
    "jax": Section("train_jax", 110, environment=JAX),
    "compiled": Section("train_pytorch", 80, "explore_compiled"),
    "jax-buffers": Section("train_jax", 60, "explore_buffers", BUFFERS),
}


def run(name: str, file: Path, seconds: float) -> None:
    """Do one section here; a failure that ends it is its last row."""
    notes = Notebook(name, file, time.monotonic() + seconds)
    section = SECTIONS[name]
    try:
        module = importlib.import_module(f"fusedmlp.benchmarks.explore.{section.module}")
        getattr(module, section.function)(notes)
    except Exception as cause:
        notes.failed("the section", cause)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
