"""Python in a process of its own, and a scratch copy of the sources for it to import."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import fusedmlp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = Path(fusedmlp.__file__).resolve().parents[1]  # the folder from which `import fusedmlp` works
FOLDERS = ("fusedmlp", "kernels", "backends", "model", "benchmarks", "tests")
COPIES = shutil.ignore_patterns("__pycache__", "results", "*.nbi", "*.nbc")


def environment(root=PACKAGE, **changes):
    """This process's, where `import fusedmlp` finds the one below `root`; a change to None removes a variable."""
    found = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (root, HERE, HERE.parent))))
    found |= {name: str(value) for name, value in changes.items() if value is not None}
    return {name: value for name, value in found.items() if changes.get(name, value) is not None}


def start(*arguments, cwd=HERE, root=PACKAGE, **changes):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(root, **changes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, timeout=60):
    """(output, error stream) of a process that must end well and in time; it is killed where it does not."""
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{output}\n{errors}") from None
    assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
    return output, errors


def python(code, *arguments, timeout=60, **options):
    """The output of some code."""
    return finish(start("-c", textwrap.dedent(code), *arguments, **options), timeout)[0]


def scratch_copy(folder):
    """A copy of the sources in which a test may change a line."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=COPIES)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def rewrite(path, old, new):
    """Puts `new` in place of the one `old` in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))
