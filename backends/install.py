"""What to type where packages are missing."""

import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def command(extra: str) -> str:
    """The line for a shell that installs this library's extra of that name (pyproject.toml): from the clone that this
    file lies in, wherever it is typed; or where the library was installed without one, for the installed library."""
    if (ROOT / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"pip install 'fusedmlp[{extra}]'"


def for_cuda() -> str:
    """The line that installs what the cuda backend needs."""
    return f"{command('cuda13')}, or with cuda12 in place of cuda13 where the driver is one for CUDA 12"
