"""`make gpu` rehearsed without a device, so that its first run on one is not spent on slips."""

import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusedmlp.backends.cuda import driver
from fusedmlp.backends.install import for_cuda
from fusedmlp.benchmarks.explore import __main__ as exploration
from fusedmlp.benchmarks.explore import runner
from fusedmlp.benchmarks.explore.notebook import Notebook, row_of
from fusedmlp.benchmarks.gpu import __main__ as script
from fusedmlp.benchmarks.gpu import kernels, pytests, suites

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SECONDS = 400


def rehearsed(*paths):
    """The environment of a process with the stand-in for a device."""
    path = os.pathsep.join(filter(None, [*map(str, paths), os.environ.get("PYTHONPATH")]))
    return os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path}


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def rows(file):
    return [row_of(json.loads(line)) for line in file.read_text().splitlines()]


@pytest.fixture
def notes(tmp_path):
    return Notebook("test", tmp_path / "rows.jsonl", time.monotonic() + 60)


SANITIZER = """#!/bin/sh
echo ========= COMPUTE-SANITIZER
tool=$2
while [ $# -gt 0 ] && [ "$1" != --error-exitcode ]; do shift; done
shift 2
"$@" || exit 1
echo "========= ERROR SUMMARY: 0 errors, by $tool"
"""

# What each section has at the least: rows of these names, and as many more.
MADE = {
    "device": ({"copy, device to device", "float32 FMA, Numba kernel"}, 5),
    "tests": ({"conformance, a few rows", *(name for name in suites.SUITES if "conformance" not in name)}, 7),
    "sanitizer": ({"every kernel once", "memcheck", "racecheck"}, 3),
    "kernels": ({"dense_backward 3x5x4, tf32: fusedmlp", "softmax 4x3: PyTorch", "Adam, 8 parameters: fusedmlp"}, 40),
    "trainings": (
        {
            f"tiny, tf32, adam: {way}"
            for way in (
                *("ours as planned", "ours steps", "ours instructions", "ours library"),
                *("pytorch eager", "pytorch graph of 8 steps"),
            )
        },
        17,
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
def test_from_end_to_end(tmp_path):
    """Every section makes its rows and none fails; results and pictures are written under the device's name; only JAX,
    which is not there, has rows that say so."""
    pytest.importorskip("matplotlib", reason="the pictures need matplotlib")
    executable(tmp_path / "compute-sanitizer", SANITIZER)
    environment = rehearsed(TESTS / "rehearsal", ROOT)
    environment["PATH"] = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    command = [sys.executable, "-m", "fusedmlp.benchmarks.gpu", "--out", str(tmp_path), "--seconds", str(SECONDS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    stem = "gpu-the-rehearsal-s-device"
    results = json.loads((tmp_path / f"{stem}.json").read_text())
    made = [row_of(row) for row in results["rows"]]
    for section, (names, least) in MADE.items():
        own = [row for row in made if row.section == section]
        assert names <= {row.name for row in own} and len(own) >= least, section
    assert {row.status for row in made} == {"measured", "found", "skipped"}
    skipped = [row for row in made if row.status == "skipped" and "streams" not in row.note]
    assert all("jax scan" in row.name and "pip install jax" in row.note for row in skipped) and skipped
    assert next(row for row in made if row.name == "racecheck").note == "ERROR SUMMARY: 0 errors, by racecheck"
    assert re.search(r"^conformance, a few rows|tests: conformance, a few rows: \d+ passed", done.stdout, re.MULTILINE)
    pictures = sorted(file.name for file in tmp_path.glob("*.png"))
    assert pictures == sorted(f"{stem}-{name}.png" for name in script.pictures.PICTURES)
    assert "none failed" in done.stdout


SCRIPTS = {"gpu": script, "explore": exploration}


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_a_device_it_fails(name, tmp_path, monkeypatch, capsys):
    """One line says why, nothing is run, and nothing is written."""
    monkeypatch.setattr(driver, "absence", lambda: "there is no NVIDIA driver")
    monkeypatch.setattr(runner, "run_section", lambda *rest: pytest.fail("something was run"))
    assert SCRIPTS[name].main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", "nothing was run, and nothing written: there is no NVIDIA driver\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_the_packages_it_fails(name, tmp_path):
    """The whole script: its one line has what to install."""
    run = f"runpy.run_module('fusedmlp.benchmarks.{name}', run_name='__main__')"
    code = f"import runpy, sys; sys.modules['cupy'] = None; {run}"
    command = [sys.executable, "-c", code, "--out", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    said = f"nothing was run, and nothing written: cupy is not installed; {for_cuda()}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert not list(tmp_path.iterdir())


def test_a_section_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    """A required backend that is not there is no success; each section says so, and the later ones are run."""
    monkeypatch.setattr(driver, "absence", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert script.main(["--out", str(tmp_path), "--sections", "sanitizer", "kernels", "--seconds", "100"]) == 1
    said = capsys.readouterr().out
    assert "FAILED sanitizer: every kernel once" in said and "FAILED kernels: " in said


TEST_FILE = """
import pytest
def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="not here")
def test_is_skipped(): pass
@pytest.fixture
def broken(): raise RuntimeError("no room")
def test_has_no_chance(broken): pass
"""


def test_how_tests_ended(tmp_path, notes):
    """Each test that failed is a row of the reason, and so is each cause of a skip."""
    (tmp_path / "test_this.py").write_text(TEST_FILE)
    suites.explore(notes, {"this": suites.Suite((str(tmp_path / "test_this.py"),))})
    found = {row.name.rpartition("::")[2]: (row.status, row.note) for row in rows(notes.file)}
    assert found == {
        "test_fails": ("failed", "AssertionError: assert 1 == 2"),
        "test_has_no_chance": ("failed", "AssertionError: RuntimeError: no room"),
        "this: some of its tests": ("skipped", "Skipped: not here"),
        "this": ("failed", "RuntimeError: 1 passed, 2 failed, 1 skipped"),
    }


BAD_FILES = {
    "import nowhere_to_be_found": "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    "": "no test ended; ended with 5",
    "import time\ndef test_one(): pass\ndef test_two(): time.sleep(60)": "1 passed; ended with 124: it took more than",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_suite_that_ends_badly(tmp_path, text):
    (tmp_path / "test_that.py").write_text(text)
    notes = Notebook("test", tmp_path / "rows.jsonl", time.monotonic() + (4 if "sleep" in text else 60))
    suites.explore(notes, {"that": suites.Suite((str(tmp_path / "test_that.py"),))})
    made = rows(notes.file)
    assert made[-1].name == "that" and made[-1].status == "failed"
    assert any(BAD_FILES[text] in row.note for row in made), made


def test_without_plugins(tmp_path):
    """pytest by itself takes this project's settings, which are a plugin's in part."""
    blocked = [part for name in ("timeout", "xdist", "benchmark") for part in ("-p", f"no:{name}")]
    file = tmp_path / "ended"
    code = f"from fusedmlp.benchmarks.gpu import pytests; from pathlib import Path; \
import sys; sys.exit(pytests.main(Path({str(file)!r}), {[*blocked, str(TESTS / 'test_comparator.py')]!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {json.loads(line)["outcome"] for line in file.read_text().splitlines()} == {"passed"}


TOOL = "#!/bin/sh\necho ========= COMPUTE-SANITIZER\necho ========= Invalid __global__ read of size 4\n"
TOOLS = {
    f"{TOOL}echo ========= ERROR SUMMARY: 1 error\nexit 86": (
        "failed",
        "ERROR SUMMARY: 1 error / Invalid __global__ read of size 4",
    ),
    "#!/bin/sh\necho Device not supported; exit 3": ("failed", "ended with 3: Device not supported"),
    "": ("skipped", "it is not on PATH"),
}


@pytest.mark.parametrize("tool", TOOLS, ids=["found", "broken", "missing"])
def test_sanitizers_verdict(tool, tmp_path, notes, monkeypatch):
    """The kernels themselves are left out."""
    monkeypatch.setattr(suites.sys, "executable", str(tmp_path / "python"))
    executable(tmp_path / "python", "#!/bin/sh\necho so many kernels\n")
    if tool:
        executable(tmp_path / "compute-sanitizer", tool)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    suites.sanitize(notes)
    first, *others = rows(notes.file)
    assert (first.status, first.note) == ("found", "so many kernels")
    status, words = TOOLS[tool]
    assert others and all(row.status == status and words in row.note for row in others), others


def test_reason():
    assert pytests.reason("x = 1\nE   AssertionError: y\nE   more") == "AssertionError: y"
    assert pytests.reason("") == ""


COLLECT = """
import json, sys, pytest
from fusedmlp.benchmarks.gpu import suites

class Chosen:
    def pytest_collection_finish(self, session):
        # Without backslashes, of which pytest makes two where it makes an id for the second time.
        self.tests = [item.nodeid.replace(chr(92), "") for item in session.items]

def collected(paths, only):
    chosen = Chosen()
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-W", "ignore"]
    arguments = [f"{sys.argv[1]}/{path}" for path in paths] + ["-k", only] * bool(only)
    return int(pytest.main([*options, *arguments], plugins=[chosen])), chosen.tests

files = sorted({path for suite in suites.SUITES.values() for path in suite.paths if not path.startswith("cuda/")})
found = {name: collected(suite.paths, suite.only) for name, suite in suites.SUITES.items()}
print("\\n" + json.dumps([found, collected(files, "cuda or gpu")]))
"""


def test_suites_select_every_test_once():
    """Each selects something from files that can be collected. Together they leave out no row for the device of the
    conformance suite and of tests/gpu, and take none twice."""
    environment = os.environ | {"FUSEDMLP_TEST_BACKENDS": "cuda"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", COLLECT, str(TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found, (status, there) = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == suites.SUITES.keys() and status == 0
    assert all(status == 0 and tests for status, tests in found.values()), found
    taken = [test for _, tests in found.values() for test in tests]
    assert len(taken) == len(set(taken)), sorted(test for test in set(taken) if taken.count(test) > 1)
    assert set(there) <= set(taken), sorted(set(there) - set(taken))[:10]


LACKING = [(suites.explore, "pytest"), *itertools.product((suites.explore, kernels.explore), ("scipy", "torch"))]


@pytest.mark.parametrize("section, package", LACKING)
def test_a_missing_package_is_one_row(notes, monkeypatch, section, package):
    """Of what to install; nothing is begun."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(suites, "run", lambda *rest: pytest.fail("something was run"))
    section(notes)
    (row,) = rows(notes.file)
    assert row.status == "failed" and row.note == f"ModuleNotFoundError: not installed: pip install {package}"


def test_what_the_sections_may_take():
    """All of it together is under eight minutes, and no section has so much by itself that none is left for the last.
    How long they take on a device is not known; what has no time left says so (tests/cuda/test_explore.py)."""
    assert script.SECONDS + runner.GRACE_SECONDS < 480
    *others, last = script.SECTIONS.values()
    assert sum(section.seconds for section in others) + last.seconds / 2 <= script.SECONDS


@pytest.mark.parametrize("target", ["gpu", "gpu-explore"])
def test_make_with_a_bare_python(target):
    """A Python without packages gets one line, and no traceback."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    command = ["make", "--silent", target, f"PYTHON={sys.executable} -S"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and not done.stdout
    first, *others = done.stderr.splitlines()
    assert first.startswith("nothing was run: ") and "has no numpy, scipy, numba, threadpoolctl; " in first
    of_make = [re.match(r"make(\[\d+\])?: \*\*\*", line) for line in others]
    assert "pip install -e '.[cuda13]'" in first and all(of_make), done.stderr
