"""Who may import what: kernels/ names no device, only backends/ knows compilers, dependencies point one way, and an
import costs nothing."""

import ast
import io
import re
import sys
import tokenize

import pytest

import processes

PACKAGES = ("kernels", "backends", "model", "fusedmlp")
COMPILERS = {"numba", "cupy", "cupyx", "cuda", "nvmath", "llvmlite"}
DEVICES = re.compile(r"(?<![a-z])(cuda|cupy|gpus?|cpus?|nvidia|ptx|simd|avx|warps?)(?![a-z])", re.IGNORECASE)
COMPILER_NAMES = re.compile(r"(?<![a-z])(numba|n?jit|llvm(lite)?)(?![a-z])", re.IGNORECASE)
# What may be imported from where, beside the standard library.
ALLOWED = {
    "kernels": {"numpy", "fusedmlp.kernels"},
    "backends": {"numpy", "scipy", "threadpoolctl", *COMPILERS, "fusedmlp.kernels", "fusedmlp.backends"},
    "model": {"numpy", "fusedmlp", "fusedmlp.kernels", "fusedmlp.backends", "fusedmlp.model"},
    "fusedmlp": {"fusedmlp.kernels", "fusedmlp.backends", "fusedmlp.model"},
}
# By file: what shows or times other people's packages, or starts the benchmarks, when a user asks for it.
EXCEPTIONS = {"demo.py": {"sklearn", "torch"}, "cli.py": {"fusedmlp.benchmarks"}}


def sources(package):
    return sorted((processes.ROOT / package).rglob("*.py"))


def imported(text):
    """The modules that some code imports, anywhere in it, whole."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def top(module):
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "fusedmlp" and parts[1:] else parts[0]


def names(text):
    """Every identifier and every text in some code but for docstrings and comments."""
    tree = ast.parse(text)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False)
    }
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def foreign(package, text, file=""):
    allowed = ALLOWED[package] | EXCEPTIONS.get(file, set()) | sys.stdlib_module_names
    return sorted({module for module in imported(text) if top(module) not in allowed})


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    assert len(sources(package)) > 1
    for source in sources(package):
        assert foreign(package, source.read_text(), source.name) == [], source


def test_nothing_asks_what_is_installed():
    """A clone that nobody installed works, and has no metadata; `fusedmlp info` says so."""
    for package in ("kernels", "backends", "fusedmlp"):
        for source in sources(package):
            assert not any(module.startswith("importlib.metadata") for module in imported(source.read_text())), source
    assert "importlib.metadata.version" in imported("from importlib.metadata import version")


def test_only_backends_import_a_compiler():
    for package in ("kernels", "model", "fusedmlp"):
        for source in sources(package):
            assert COMPILERS.isdisjoint(map(top, imported(source.read_text()))), source
    found = {top(module) for source in sources("backends") for module in imported(source.read_text())}
    assert "numba" in found  # else this test sees nothing


def test_kernels_name_no_device():
    """Neither in code, nor in a comment or docstring, but for where a number was measured. A comment may say what a
    compiler made of a line, code may not know that there is one."""
    for source in sources("kernels"):
        text = source.read_text()
        assert [name for name in names(text) if DEVICES.search(name) or COMPILER_NAMES.search(name)] == [], source
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                prose = token.string.replace("cores with AVX-512", "")  # where a number was measured
                assert not DEVICES.search(prose), f"{source}:{token.start[0]}: {token.string}"


@pytest.mark.parametrize(
    "package, planted",
    [
        ("kernels", "import numba"),
        ("kernels", "def f():\n    from numba import njit"),
        ("kernels", "from fusedmlp.backends import errors"),
        ("kernels", "import scipy.linalg"),
        ("backends", "from fusedmlp.model import MLP"),
        ("backends", "import torch"),
        ("model", "import cupy"),
        ("fusedmlp", "import numpy"),
    ],
)
def test_planted_import_is_seen(package, planted):
    assert foreign(package, planted)


@pytest.mark.parametrize("planted", ["cuda_grid = 1", "x.cpu()", "if name == 'cuda': pass", "def on_gpu(): pass"])
def test_planted_device_is_seen(planted):
    assert any(map(DEVICES.search, names(planted)))
    assert not any(map(DEVICES.search, names("accumulate = 'occupy'")))


LOADED = """
import sys
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


def loaded_by(module):
    return set(processes.python(LOADED.format(module=module)).split())


def test_importing_the_package_loads_nothing():
    loaded = loaded_by("fusedmlp")
    assert "fusedmlp" in loaded
    assert loaded <= {"fusedmlp", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", ["fusedmlp.kernels.interpreter, fusedmlp.kernels.single, fusedmlp.kernels.rules"])
def test_importing_the_kernels_loads_no_compiler(module):
    loaded = loaded_by(module)
    assert "numpy" in loaded
    assert loaded <= {"fusedmlp", "numpy", *sys.stdlib_module_names}


def test_python_backend_needs_no_compiler():
    """Nor does the rest of the library need one before the cpu backend is asked for."""
    code = """
        import sys
        before = set(sys.modules)
        import numpy as np
        import fusedmlp as fm
        model = fm.MLP([3, 4, 2], backend="python")
        model.fit(np.ones((5, 3)), np.zeros(5, int), loss="cross_entropy", epochs=1, progress=False)
        fm.get_backend("python").softmax(np.ones((2, 3)))
        print(*set(sys.modules) - before)
    """
    loaded = {name.partition(".")[0] for name in processes.python(code).split()}
    assert loaded <= {"fusedmlp", "numpy", *sys.stdlib_module_names}


def test_using_the_library_never_imports_another_array_library():
    code = """
        import sys
        before = set(sys.modules)
        import numpy as np
        import fusedmlp as fm
        fm.softmax(np.ones((2, 3), np.float32))
        fm.available_backends()
        print(*set(sys.modules) - before)
    """
    loaded = {name.partition(".")[0] for name in processes.python(code).split()}
    assert "numba" in loaded
    assert loaded.isdisjoint({"cupy", "cuda", "torch", "jax", "tensorflow", "sklearn", "pandas"})
