"""The package as people get it: wheel, editable install, and a checkout that nobody installed."""

import ast
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import fusedmlp

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = SETUPTOOLS["package-dir"]  # fusedmlp.kernels -> kernels
INSIDE = [package for package in FOLDERS if package != "fusedmlp"]


def python(*arguments, cwd, executable=sys.executable):
    """The output of an interpreter that has only its own packages and, where Python puts it there, cwd."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources(root):
    """The Python files of the package below root, named as an install names them."""
    return {
        str(Path(package.replace(".", "/"), path.relative_to(root / folder)))
        for package, folder in FOLDERS.items()
        for path in (root / folder).rglob("*.py")
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh copy, so that building leaves nothing in the tree and takes nothing that an older one left."""
    copy = tmp_path_factory.mktemp("clone") / "fusedmlp"
    copy.mkdir()
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def build(checkout, tmp_path_factory):
    """build("wheel") or build("editable") gives the path of what setuptools made, which needs no network."""

    def build(kind):
        target = tmp_path_factory.mktemp(kind)
        python("-c", f"from setuptools import build_meta as b; b.build_{kind}({str(target)!r})", cwd=checkout)
        return next(target.glob("*.whl"))

    return build


@pytest.fixture(scope="module")
def wheel(build):
    return build("wheel")


def site_packages(executable):
    (folder,) = executable.parents[1].glob("lib/python3*/site-packages")
    return folder


def environment_with(path, wheel):
    """The Python of a new environment with this wheel, and behind it the packages that the tests have."""
    venv.create(path, symlinks=True)
    executable = path / "bin" / "python"
    python("-m", "pip", "--python", executable, "install", "--quiet", "--no-deps", wheel, cwd=path)
    # Folders that a .pth file names are searched last, and the .pth files in them are not read: in particular
    # not that of the editable install that the tests themselves run on.
    (site_packages(executable) / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


@pytest.fixture(scope="module")
def wheel_python(wheel, tmp_path_factory):
    return environment_with(tmp_path_factory.mktemp("wheel-venv"), wheel)


@pytest.fixture(scope="module")
def editable_python(build, tmp_path_factory):
    return environment_with(tmp_path_factory.mktemp("editable-venv"), build("editable"))


IMPORT_ALL = f"""
import {", ".join(SETUPTOOLS["packages"])}
for name in fusedmlp.__all__:
    getattr(fusedmlp, name)
for package in {INSIDE}:
    print(__import__(package, fromlist=["_"]).__file__)
"""


def homes(executable, cwd, *options, code=IMPORT_ALL):
    """Where the sub-packages came from, once every public name has been found."""
    return [Path(line) for line in python(*options, "-c", code, cwd=cwd, executable=executable).splitlines()]


def in_tree(root):
    return [root / FOLDERS[package] / "__init__.py" for package in INSIDE]


def in_site(executable):
    return [site_packages(executable) / package.replace(".", "/") / "__init__.py" for package in INSIDE]


def test_every_package_is_listed():
    files = sources(ROOT)
    folders = {str(Path(name).parent) for name in files}
    assert sorted(SETUPTOOLS["packages"]) == sorted(folder.replace("/", ".") for folder in folders)
    assert {f"{folder}/__init__.py" for folder in folders} <= files


def test_wheel_holds_the_package_and_nothing_else(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"fusedmlp-{fusedmlp.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"fusedmlp", metadata}
    assert {name for name in names if name.endswith(".py")} == sources(checkout)
    assert "fusedmlp/py.typed" in names


def test_wheel_outside_the_clone(wheel_python, tmp_path):
    assert homes(wheel_python, tmp_path) == in_site(wheel_python)


def test_wheel_inside_the_clone(wheel_python, checkout):
    """-P leaves out the working folder, as a console script does; without it the clone comes first."""
    assert homes(wheel_python, checkout, "-P") == in_site(wheel_python)
    assert homes(wheel_python, checkout) == in_tree(checkout)


def test_editable_outside_the_clone(editable_python, tmp_path, checkout):
    assert homes(editable_python, tmp_path) == in_tree(checkout)


def test_editable_inside_the_clone(editable_python, checkout):
    assert homes(editable_python, checkout, "-P") == in_tree(checkout)
    assert homes(editable_python, checkout) == in_tree(checkout)


def test_clone_without_install(wheel_python, checkout):
    """-S leaves out site-packages, and with them every installed fusedmlp; the dependencies are put back."""
    code = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})" + IMPORT_ALL
    assert homes(wheel_python, checkout, "-S", code=code) == in_tree(checkout)


def test_commands(wheel_python, tmp_path):
    as_module = python("-m", "fusedmlp", "--help", cwd=tmp_path, executable=wheel_python)
    as_script = python(wheel_python.with_name("fusedmlp"), "--help", cwd=tmp_path, executable=wheel_python)
    assert as_module == as_script
    assert as_script.startswith("usage: fusedmlp")


ADVICE = (
    "from fusedmlp.backends import install; print(*map(install.command, {extras!r}), install.for_cuda(), sep='\\n')"
)
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def advice(executable, cwd, *extras):
    return python("-P", "-c", ADVICE.format(extras=extras), cwd=cwd, executable=executable).splitlines()


def test_advice_for_a_wheel(wheel_python, tmp_path):
    """What an error says to type is what pip takes for the installed library, and adds the extra's packages to it: here
    they are there, and no index is asked."""
    line, for_cuda = advice(wheel_python, tmp_path, "sklearn")
    assert line == "pip install 'fusedmlp[sklearn]'"
    assert for_cuda.startswith("pip install 'fusedmlp[cuda13]', ") and {"cuda12", "cuda13"} <= set(EXTRAS)
    pip, *rest = shlex.split(line)
    options = ["--python", wheel_python, *rest, "--no-index", "--dry-run"]
    done = python("-m", pip, *options, cwd=tmp_path)
    assert "scikit-learn" in done and "Would install" not in done


def test_advice_for_a_clone(editable_python, tmp_path, checkout):
    """The folder is named, so it is the same wherever it is typed; pip finds the library there, and its extra."""
    line, for_cuda = advice(editable_python, tmp_path, "sklearn")
    assert line == f"pip install -e '{checkout}[sklearn]'" and for_cuda.startswith(
        f"pip install -e '{checkout}[cuda13]', "
    )
    pip, *rest = shlex.split(line)
    options = ["--python", editable_python, *rest, "--no-index", "--no-build-isolation", "--dry-run"]
    done = python("-m", pip, *options, cwd=tmp_path)
    assert "scikit-learn" in done and f"Would install fusedmlp-{fusedmlp.__version__}" in done


# `pytest benchmarks/` imports benchmarks by that name, so it alone may be imported bare.
@pytest.mark.parametrize("package", [package for package in INSIDE if package != "fusedmlp.benchmarks"])
def test_bare_import_says_what_to_write(package, checkout):
    done = subprocess.run(
        [sys.executable, "-c", f"import {FOLDERS[package]}"], cwd=checkout, text=True, capture_output=True
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert f"`{package}`" in done.stderr.splitlines()[-1]


def test_import_loads_nothing_else(wheel_python, tmp_path):
    code = """
import sys
before = set(sys.modules)
import fusedmlp
dir(fusedmlp)
print(*sorted(set(sys.modules) - before))
"""
    assert python("-c", code, cwd=tmp_path, executable=wheel_python).split() == ["fusedmlp"]


def test_public_names_agree():
    assert sorted(fusedmlp.__all__) == sorted({*fusedmlp._HOME, "__version__"})

    tree = ast.parse((ROOT / "fusedmlp" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if ast.unparse(node).startswith("if TYPE_CHECKING:"))
    assert {alias.name: line.module for line in block.body for alias in line.names} == fusedmlp._HOME


def test_public_names():
    for name in fusedmlp.__all__:
        assert getattr(fusedmlp, name) is not None
        assert name in dir(fusedmlp)
    with pytest.raises(AttributeError, match="no attribute 'dens'"):
        _ = fusedmlp.dens
