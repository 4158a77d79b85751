"""The exploration (benchmarks/explore) rehearsed without a device, so that its first run on one is not spent on slips.

Its stand-in for a device is tests/fake_gpu.py's.
"""

import ctypes
import json
import math
import re
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from fake_gpu import StandIn, memory
from fusedmlp.backends.cuda import driver
from fusedmlp.benchmarks.cases import COLUMNS, Case
from fusedmlp.benchmarks.explore import __main__ as script
from fusedmlp.benchmarks.explore import (
    barriers,
    ceilings,
    graphs,
    kernels,
    mathematics,
    products,
    runner,
    sections,
    train_pytorch,
    trainings,
)
from fusedmlp.benchmarks.explore import gpu as gpu_module
from fusedmlp.benchmarks.explore.gpu import Gpu
from fusedmlp.benchmarks.explore.notebook import Notebook, Row, row_of, table
from fusedmlp.benchmarks.harness import Spread

ROOT = Path(__file__).parents[2]


def ptxas():
    """pip's, or the one that is installed."""
    here = (Path(folder) / "nvidia" for folder in sys.path)
    return next((str(path) for folder in here for path in folder.glob("*/bin/ptxas")), shutil.which("ptxas"))


@pytest.fixture
def notes(tmp_path):
    """And afterwards subnormal numbers are numbers again: the trainings by PyTorch flush them in the whole process."""
    yield Notebook("test", tmp_path / "rows.jsonl", time.monotonic() + 300)
    torch.set_flush_denormal(False)


def rows(notes):
    return [row_of(json.loads(line)) for line in notes.file.read_text().splitlines()]


@pytest.mark.parametrize("name", list(kernels.sources()))
def test_kernels_assemble(name, tmp_path):
    source = kernels.sources()[name]
    device = SimpleNamespace(compute_capability=(9, 0))
    with patch("numba.cuda.dispatcher.get_current_device", lambda: device):
        code, _ = kernels.cuda.compile_ptx(source.function, source.takes, fastmath=source.fastmath, cc=(9, 0))
    assert ".target sm_90" in code and re.search(r"\.visible \.entry", code)
    assert ".f64" not in code
    if name == "fma":
        assert code.count("fma.rn.f32") == kernels.FMA_CHAINS * kernels.FMA_UNROLLED
    if not (assembler := ptxas()):
        pytest.skip("compiled, but there is no ptxas to assemble it: pip install nvidia-cuda-nvcc")
    (tmp_path / "kernel.ptx").write_text(code)
    command = [assembler, "--gpu-name", "sm_90", "--compile-only", "--verbose", "kernel.ptx", "-o", "kernel.cubin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill", done.stderr)
    assert spills and not any(map(int, spills)), done.stderr


@pytest.fixture
def quick(monkeypatch):
    """Sizes that mean nothing, so that every line runs soon."""
    monkeypatch.setattr(gpu_module, "WARM_SECONDS", 0)
    monkeypatch.setattr(gpu_module, "HOST_CALLS", 2)
    monkeypatch.setattr(Gpu.warm, "__kwdefaults__", {"seconds": 0.0})
    monkeypatch.setattr(Gpu.times, "__defaults__", (1, 3, 0.0))
    monkeypatch.setattr(Gpu.slopes, "__defaults__", (3,))
    monkeypatch.setattr(Gpu.host_times, "__defaults__", (3,))
    monkeypatch.setattr(mathematics, "POINTS", 1 << 12)
    monkeypatch.setattr(ceilings, "COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(ceilings, "RANDOM_BYTES", 1 << 14)
    monkeypatch.setattr(ceilings, "REPETITIONS", 3)


GPU_SECTIONS = {
    "device": lambda notes, gpu: ceilings.explore(notes, gpu, "cpu", 64),
    "barriers": barriers.explore,
    "graphs": graphs.explore,
    "mathematics": mathematics.explore,
}
COUNTS = {"device": 8, "barriers": 26, "graphs": 21, "mathematics": 12}


@pytest.mark.parametrize("section", GPU_SECTIONS)
def test_sections_on_a_stand_in(section, notes, quick):
    GPU_SECTIONS[section](notes, StandIn())
    made = rows(notes)
    faults = [row for row in made if row.status not in ("measured", "found")]
    if section == "device":  # there is no CuPy to ask, and no nvidia-smi
        assert {row.name for row in faults if row.status == "failed"} <= {"facts", "driver"}
        faults = [row for row in faults if row.status != "failed"]
    assert not faults
    assert len(made) >= COUNTS[section] - 2
    assert len({row.name for row in made}) == len(made)
    for row in made:
        if row.status == "measured":
            assert row.unit and row.repetitions >= 3 and np.isfinite([row.spread.p20, row.spread.p80]).all()


@pytest.mark.parametrize("section", GPU_SECTIONS)
def test_kernels_that_do_nothing_are_found(section, notes, quick):
    GPU_SECTIONS[section](notes, StandIn(idle=True))
    wrong = {row.name for row in rows(notes) if row.status == "wrong"}
    expected = {
        "device": {"float32 FMA, Numba kernel"},
        "barriers": {"grid barrier: 20 blocks", "counter barrier: 16 blocks", "cluster barrier: 8 blocks, 1 cluster"},
        "graphs": {"graph node: dependent, 1 block", "host time of a launch: cuda.core, 16 arrays"},
        "mathematics": {"exp: rate", "erf fastmath: rate"},
    }
    assert expected[section] <= wrong
    if section == "mathematics":
        assert all("nan" in row.note for row in rows(notes) if row.status == "found")
    if section == "graphs":
        assert all("does not do the work" in row.note for row in rows(notes) if row.name.startswith("can be"))


def test_a_refused_capture_is_a_finding(notes, quick):
    class Refusing(StandIn):
        def capture(self, work):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    graphs.captured(notes, Refusing(), "exchange grid", 4, "Numba", "can be captured: this")
    (row,) = rows(notes)
    assert row.status == "found"
    assert row.note == "no: RuntimeError: operation not permitted when stream is capturing"


class FakeCublasLt:
    """cuBLASLt as the section uses it, on NumPy, with two algorithms of which the second is wrong by `fault`."""

    def __init__(self, fault=0.0):
        self.things, self.handles, self.fault = {}, count(1), fault

    def made(self, thing):
        handle = next(self.handles)
        self.things[handle] = thing
        return handle

    def create(self):
        return self.made("library")

    def matrix_layout_create(self, kind, rows, columns, ld):
        return self.made((kind, rows, columns, ld))

    def matmul_desc_create(self, compute, scale):
        assert scale == 0
        return self.made({"compute": int(compute), 7: 1})

    def matmul_preference_create(self):
        return self.made({})

    def destroyed(self, handle):
        del self.things[handle]

    matmul_preference_destroy = matrix_layout_destroy = matmul_desc_destroy = destroyed

    def matmul_desc_set_attribute(self, descriptor, attribute, address, size):
        assert size == {3: 4, 4: 4, 7: 4, 8: 8, 11: 8, 12: 8}[attribute]
        self.things[descriptor][int(attribute)] = int.from_bytes(ctypes.string_at(address, size), "little")

    def matmul_preference_set_attribute(self, preference, attribute, address, size):
        assert (attribute, size) == (1, 8)

    def matmul_algo_get_heuristic(self, handle, descriptor, a, b, c, d, preference, requested, results, found):
        assert requested == 16
        ctypes.c_int.from_address(found).value = 2
        for number in range(2):
            step = ctypes.sizeof(products.MatmulHeuristicResult)
            products.MatmulHeuristicResult.from_address(results + number * step).algo.data[0] = number

    def array(self, layout, address):
        kind, rows, columns, ld = self.things[layout]
        assert ld == rows
        return memory(address, rows * columns, {0: np.float32, 14: np.uint16}[kind]).reshape(columns, rows).T

    def matmul(
        self, handle, descriptor, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algo,
        workspace, workspace_bytes, stream
    ):  # fmt: skip
        form = self.things[descriptor]
        first, second, out = self.array(a_layout, a), self.array(b_layout, b), self.array(d_layout, d)
        first, second = (m if m.dtype == np.float32 else products.from_bf16(m) for m in (first, second))
        product = (first.T if form[3] else first) @ (second.T if form[4] else second)
        assert memory(alpha, 1, np.float32) == 1 and memory(beta, 1, np.float32) == 0
        epilogue = form[7]
        if epilogue & 4:
            product = product + memory(form[8], out.shape[0], np.float32)[:, None]
        if epilogue == 8 | 128:
            bits = np.unpackbits(memory(form[11], product.size // 8, np.uint8), bitorder="little")
            product = np.where(bits.reshape(out.shape[::-1]).T, product, 0)
        elif epilogue & 2:
            if epilogue & 128:
                assert form[12] == out.shape[0]
                memory(form[11], product.size // 8, np.uint8)[:] = np.packbits(product.T > 0, bitorder="little")
            product = np.maximum(product, 0)
        if memory(algo, 1, np.uint64)[0]:
            product = product * (1 + self.fault)
        product = product.astype(np.float32)
        out[...] = product if out.dtype == np.float32 else products.to_bf16(np.ascontiguousarray(product))


@pytest.fixture
def small_products(monkeypatch, quick):
    forms = products.forms((24, 32, 16, 10), 8)
    assert len(forms) == 8
    monkeypatch.setattr(products, "forms", lambda: forms)
    monkeypatch.setattr(products, "SCREENING", 2)
    monkeypatch.setattr(products, "SCREENING_WARM", 0.0)


def test_products(notes, small_products):
    fake = FakeCublasLt()
    products.explore(notes, StandIn(), fake)
    made = {row.name: row for row in rows(notes)}
    assert not [row for row in made.values() if row.status not in ("measured", "found")]
    assert sum(row.status == "measured" for row in made.values()) == 2 * 8 * len(products.KINDS)
    assert "of 2, relative error" in made["tf32, dW 2: best"].note
    assert made["RELU_BIAS, z from the bias"].note.startswith("nan 0 0 inf 0 1.5 0 9.99995e-41 0")
    assert made["RELU_AUX, z from the product"].note.endswith("mask 0 0 0 1 0 1 0 1 0")
    assert made["DRELU of z where the mask is 1"].note.split()[3:7] == ["inf", "-inf", "1.5", "-1.5"]
    assert made["DRELU of z where the mask is 0"].note == "0 0 0 0 0 0 0 0 0"
    assert list(fake.things.values()).count("library") == 1


def test_a_wrong_algorithm_is_found(notes, small_products):
    products.explore(notes, StandIn(), FakeCublasLt(fault=0.1))
    wrong = [row for row in rows(notes) if row.status == "wrong"]
    assert len(wrong) == 2 * 8 * len(products.KINDS)
    assert all("algorithm 1 has a relative error of 1.0e-01" in row.note for row in wrong)


TINY = Case("tiny", (12, 16, 10), 8, "cross_entropy", steps=9)


def tasks(*precisions):
    return tuple(trainings.Task(TINY, precision, column) for precision in precisions for column in COLUMNS.values())


@pytest.fixture
def short_turns(monkeypatch):
    monkeypatch.setattr("fusedmlp.benchmarks.explore.clocks.WARM_SECONDS", 0.0)
    monkeypatch.setattr(trainings, "REPETITIONS", 4)


def test_pytorch_on_the_processor(notes, short_turns):
    train_pytorch.explore(notes, tasks("float32", "bf16"), "cpu", capture=lambda work, pool: work)
    made = rows(notes)
    assert [row for row in made if row.status != "measured"] == []
    assert {row.name for row in made} == {
        f"{task}: {mode}"
        for task in tasks("float32", "bf16")
        for mode in ("graph of 1 step", "graph of 8 steps", "eager, fused")
    }


def test_wrong_losses_are_found(notes, short_turns):
    (task, _) = tasks("float32")
    training = SimpleNamespace(run=lambda steps: steps, first_losses=lambda count: [2.0] * count)
    trainings.losses_file(notes, task).write_text(json.dumps([2.3] * trainings.CHECKED_STEPS))
    trainings.measure(notes, task, "mode", training, [math.nan] * 9, trainings.HostClock())
    (row,) = rows(notes)
    assert row.status == "wrong"
    assert "loss nan at step 0, PyTorch has 2.3" in row.note and "the loss did not go down" in row.note


def test_compiling_is_bounded(notes, short_turns, monkeypatch):
    def slowly(function, mode, **options):
        if mode == "max-autotune":
            try:
                time.sleep(20)
            except Exception:  # as torch.compile goes on after errors
                time.sleep(20)
        return function

    monkeypatch.setattr(torch, "compile", slowly)
    monkeypatch.setattr(train_pytorch, "COMPILE_SECONDS", 4.0)
    train_pytorch.PyTorch(TINY, COLUMNS["sgd"], "reduce-overhead").run(1)  # PyTorch imports more for it, for seconds
    train_pytorch.explore_compiled(notes, tasks("float32")[:1], "cpu")
    made = {row.name.partition("compile, ")[2]: row for row in rows(notes)}
    assert made["reduce-overhead"].status == "measured" and "first epoch after" in made["reduce-overhead"].note
    assert made["max-autotune"].status == "skipped" and "more than 4 s" in made["max-autotune"].note


def test_jax_on_the_processor(tmp_path):
    """In a process of its own: JAX's threads do not go with tests that fork."""
    pytest.importorskip("jax")
    code = f"""
import time
from pathlib import Path
from fusedmlp.benchmarks.cases import COLUMNS, Case
from fusedmlp.benchmarks.explore import clocks, train_jax, train_pytorch, trainings
from fusedmlp.benchmarks.explore.notebook import Notebook
clocks.WARM_SECONDS, trainings.REPETITIONS = 0.0, 4
notes = Notebook("test", Path({str(tmp_path)!r}) / "rows.jsonl", time.monotonic() + 200)
tiny = Case("tiny", {TINY.sizes}, {TINY.batch}, "cross_entropy", steps={TINY.steps})
tasks = tuple(trainings.Task(tiny, p, column) for p in ("float32", "bf16") for column in COLUMNS.values())
train_pytorch.explore(notes, tasks, "cpu", capture=lambda work, pool: work)
train_jax.explore(notes, tasks, "cpu")
train_jax.explore_buffers(notes, tasks[:1], "cpu")
try:
    train_jax.explore(notes, tasks)
except RuntimeError as error:
    assert "JAX runs on cpu, not on gpu" in str(error)
else:
    raise AssertionError("the processor was taken for a GPU")
"""
    environment = runner.device.environment(1) | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    made = [row_of(json.loads(line)) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    scans = [row for row in made if "scan" in row.name]
    assert len(scans) == 9
    assert all(row.status == "measured" and row.note.startswith("host's clock over 36 steps") for row in scans)


SPREAD = Spread(1.0, 2.0, 3.0)
FABRICATED = [
    Row("device", "name", "found", note="TEST DEVICE, no such GPU"),
    Row("device", "driver", "found", note="0.0"),
    Row("barriers", "grid barrier: 2 blocks", "measured", "µs", SPREAD, 5),
    Row("barriers", "grid barrier: 1 block", "wrong", "µs", SPREAD, 5, "1 of 2 exchanges saw an old value"),
    Row("jax", "the section", "failed", note="RuntimeError: none"),
]


def test_table():
    text = table([*FABRICATED, replace(FABRICATED[-1], name="another")])
    assert "barriers: grid barrier, µs: 2 blocks 2, 1 block 2 (wrong)" in text
    assert "barriers: grid barrier: 1 block: wrong: 1 of 2 exchanges saw an old value" in text
    assert "jax: 2 rows, first the section: failed: RuntimeError: none" in text


def test_document(tmp_path, monkeypatch, capsys):
    def fabricate(name, section, file, seconds):
        with file.open("a") as out:
            out.writelines(json.dumps(asdict(row)) + "\n" for row in FABRICATED if row.section == name)

    monkeypatch.setattr(driver, "absence", lambda: None)
    monkeypatch.setattr(runner, "run_section", fabricate)
    monkeypatch.setenv("PATH", "")  # there is no git
    assert script.main(["--out", str(tmp_path), "--sections", "device", "barriers", "jax"]) == 0
    results = json.loads((tmp_path / "explore-test-device-no-such-gpu.json").read_text())
    assert (results["device"], results["driver"], results["commit"]) == ("TEST DEVICE, no such GPU", "0.0", None)
    assert results["versions"]["numpy"] == np.__version__
    assert [row_of(row) for row in results["rows"]] == FABRICATED
    assert "no such GPU, driver 0.0, commit unknown" in capsys.readouterr().out


def test_a_section_that_cannot_begin_is_a_row(tmp_path, monkeypatch):
    """The whole script, in its own processes, on a device that is gone when a section asks for it."""
    monkeypatch.setattr(driver, "absence", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = script.main(["--out", str(tmp_path), "--sections", "barriers", "graphs", "--seconds", "120"])
    assert done == 1
    results = json.loads((tmp_path / "explore-unknown-gpu.json").read_text())
    assert [(row["section"], row["name"], row["status"]) for row in results["rows"]] == [
        ("barriers", "the section", "failed"),
        ("graphs", "the section", "failed"),
    ]
    assert all("Error: " in row["note"] for row in results["rows"])


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    "does, said",
    [("echo lost it >&2; exit 3", "its process ended with 3; lost it"), ("sleep 60 & wait", "it took more than 0 s")],
)
def test_a_section_that_ends_badly_is_a_row(does, said, tmp_path, monkeypatch):
    """Also one that hangs, with a process that it started."""
    monkeypatch.setattr(runner.sys, "executable", executable(tmp_path / "python", f"#!/bin/sh\n{does}\n"))
    monkeypatch.setattr(runner, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.3)
    began = time.monotonic()
    runner.run_section("graphs", sections.SECTIONS["graphs"], tmp_path / "rows.jsonl", 0.2)
    assert time.monotonic() - began < 20
    (row,) = [row_of(json.loads(line)) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert (row.section, row.name, row.status) == ("graphs", "the section", "failed") and said in row.note


def test_no_time_left(tmp_path, notes):
    runner.run_section("graphs", sections.SECTIONS["graphs"], tmp_path / "rows.jsonl", 1.0)
    late = Notebook(notes.section, notes.file, time.monotonic() - 1)
    late.attempt("much", lambda: pytest.fail("it was begun"))
    assert [(row.name, row.status, row.note) for row in rows(notes)] == [
        ("the section", "skipped", "no time left"),
        ("much", "skipped", "no time left"),
    ]


def test_a_failing_figure_does_not_end_its_section(notes):
    def fail(what):
        raise ValueError(f"{what}\nof two lines")

    notes.attempt("this", fail, "an error")
    notes.attempt("that", notes.measured, "that", "µs", [1.0, 2.0, 3.0])
    failed, measured = rows(notes)
    assert (failed.status, failed.note) == ("failed", "ValueError: an error of two lines")
    assert measured.spread == Spread.of([1.0, 2.0, 3.0]) and measured.repetitions == 3


def test_every_section_exists():
    for section in sections.SECTIONS.values():
        if not section.module.endswith("train_jax"):
            module = __import__(section.module, fromlist=["_"])
            assert callable(getattr(module, section.function))
    assert sum(min(section.seconds, 45) for section in sections.SECTIONS.values()) > script.SECONDS
    assert script.SECONDS + runner.GRACE_SECONDS < 420
