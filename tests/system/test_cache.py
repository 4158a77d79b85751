"""Compiled kernels on disk: none is ever stale, whatever was changed how quickly, and nobody needs the folder."""

import json
import os

import numpy as np
import pytest

import processes

pytestmark = pytest.mark.timeout(240)

ALL, REST = [1.0] * 4, [0.0] + [1.0] * 3


def start(scenario, *arguments, root=processes.PACKAGE, **changes):
    return processes.start(processes.HERE / "caches.py", scenario, *arguments, root=root, **changes)


def finish(process):
    output, errors = processes.finish(process, 120)
    return json.loads(output), errors


# One body, two bindings.


@pytest.fixture
def bindings(tmp_path):
    """bindings(digest, order): both bindings called in a process, the kernels kept in one folder."""
    for name in ("all", "rest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.py").write_text(f"# the words of {name}\n")
    return lambda digest, *order: finish(
        start("two_bindings", tmp_path, digest, *order, NUMBA_CACHE_DIR=tmp_path / "kernels")
    )[0]


def test_two_bindings_of_one_body(bindings):
    """In one process, and from disk in later ones, in either order."""
    assert bindings("digest", "all", "rest") == {"all": [ALL, 0], "rest": [REST, 0]}
    assert bindings("digest", "rest", "all") == {"all": [ALL, 1], "rest": [REST, 1]}
    assert bindings("digest", "all") == {"all": [ALL, 1]}


def test_two_bindings_in_two_processes(bindings):
    assert bindings("digest", "rest") == {"rest": [REST, 0]}
    assert bindings("digest", "all") == {"all": [ALL, 0]}
    assert bindings("digest", "rest", "all") == {"all": [ALL, 1], "rest": [REST, 1]}


def test_without_the_digest_the_trap_closes(bindings):
    """Planted: one qualified name for both bindings. The second gets the first's machine code."""
    assert bindings("none", "all") == {"all": [ALL, 0]}
    assert bindings("none", "rest") == {"rest": [ALL, 1]}


# A source that is edited.


Z = np.linspace(-3, 3, 12).reshape(3, 4)
EDITS = {
    "rule": ("kernels/optimizers.py", "(growth * sqrt(square) + epsilon)", "(sqrt(square) / growth + epsilon)"),
    "body": ("kernels/dense.py", "step(w[j], g[j], a, b, d, h)", "step(w[j], a   , a, b, d, h)"),
    "word": ("backends/cpu/words.py", '"sqrt": math.sqrt,', '"sqrt": math.cosh,'),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_source_finds_no_stale_kernel(tmp_path, edit):
    """The file keeps its size and its time of change, as it may where two changes follow within its granularity:
    Numba's own stamp sees neither, nor another file's change at all."""
    root = processes.scratch_copy(tmp_path / "tree")
    path, old, new = EDITS[edit]

    def run(*names):
        # Python keeps byte code by time and size as well; this is about the kernels.
        process = start("step", *names, root=root, NUMBA_CACHE_DIR=tmp_path / "k", PYTHONDONTWRITEBYTECODE=1)
        return finish(process)[0]

    before = run("cpu")
    np.testing.assert_allclose(before["cpu"], Z - 0.5 * np.sign(Z), rtol=1e-5)
    source = root / path
    stat, text = source.stat(), source.read_text()
    processes.rewrite(source, old, new)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = run("cpu", "python")
    assert after["hits"] == 0
    assert not np.allclose(after["cpu"], before["cpu"])
    if edit != "word":
        np.testing.assert_allclose(after["cpu"], after["python"], rtol=1e-5)
    source.write_text(text)
    again = run("cpu")
    assert again["hits"] == 1  # the first kernel is still there
    assert again["cpu"] == before["cpu"]


def test_the_product_of_other_sources_is_another(tmp_path):
    """Numba's stamp of it sees its own file, and none of those that it is made of."""
    found = [finish(start("product", digest, NUMBA_CACHE_DIR=tmp_path))[0] for digest in ("these", "these", "others")]
    assert found == [0, 1, 0]


# The folder.


def test_no_folder_can_be_written(tmp_path):
    """Files stand where the folders would be: the kernels stay in memory, with one warning that says what to do."""
    root = processes.scratch_copy(tmp_path / "tree")
    for folder in {source.parent for source in root.rglob("*.py")}:
        (folder / "__pycache__").write_text("")
    blocked = tmp_path / "file"
    blocked.write_text("")
    found, errors = finish(
        start(
            "four_kernels",
            root=root,
            HOME=blocked,
            XDG_CACHE_HOME=blocked,
            FUSEDMLP_CACHE_DIR=blocked,
            NUMBA_CACHE_DIR=None,
            PYTHONDONTWRITEBYTECODE=1,
        )
    )
    assert found["right"] == [True] * 4
    assert errors.count("fusedmlp: compiling") == 4
    ((category, message),) = found["warnings"]
    assert category == "RuntimeWarning"
    assert "memory" in message and "set NUMBA_CACHE_DIR" in message
    assert blocked.read_text() == ""


def test_folder_that_can_be_written_warns_of_nothing(tmp_path):
    found, errors = finish(start("four_kernels", NUMBA_CACHE_DIR=tmp_path))
    assert found == {"right": [True] * 4, "warnings": []}
    assert errors.count("fusedmlp: compiling") == 4
    found, errors = finish(start("four_kernels", NUMBA_CACHE_DIR=tmp_path))
    assert found == {"right": [True] * 4, "warnings": []}
    assert errors == ""  # from disk: nothing is announced


def test_processes_that_compile_at_once(tmp_path):
    running = [start("step", "cpu", NUMBA_CACHE_DIR=tmp_path) for _ in range(3)]
    results = [finish(process)[0] for process in running]
    results.append(finish(start("step", "cpu", NUMBA_CACHE_DIR=tmp_path))[0])
    assert results[-1]["hits"] == 1
    assert all(result["cpu"] == results[0]["cpu"] for result in results)
    np.testing.assert_allclose(results[0]["cpu"], Z - 0.5 * np.sign(Z), rtol=1e-5)
