"""Nobody is left at the barrier: whatever ends a run, all workers leave it after the same step, at once."""

import signal
import textwrap

import numpy as np
import pytest

import fusedmlp as fm
import processes
import runs

pytestmark = [pytest.mark.alone, pytest.mark.timeout(150)]


def run(scenario, *arguments, timeout=60):
    """A scenario of stops.py."""
    script = processes.HERE / "stops.py"
    output, _ = processes.finish(processes.start(script, scenario, *arguments), timeout)
    assert output.endswith("done\n")


@pytest.mark.parametrize("scenario", ["failure", "failure_along"])
def test_failure_of_a_worker_releases_the_others(scenario):
    run(scenario)


def test_stop_is_met_by_all_workers_at_one_step():
    run("request")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_stop_asked_for_anywhere_in_a_step(workers):
    run("requested_by_a_word", workers)


@pytest.mark.parametrize("name", ["python", "cpu"])
def test_nan_loss_keeps_the_parameters_before_it(name):
    run("nan", name)


@pytest.mark.parametrize("name, workers", [("python", 1), ("cpu", 1), ("cpu", 2)])
def test_ctrl_c_within_an_epoch(name, workers):
    run("ctrl_c", name, workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_within_short_epochs(workers):
    run("ctrl_c_brief", workers)


def test_ctrl_c_while_a_kernel_is_compiled(tmp_path):
    """It is neither lost in the compiler nor waits for its end; the kernel is then there for the next call."""
    code = """
        import time
        import numpy as np
        import fusedmlp as fm
        z = np.ones((2, 3), np.float32)
        print("ready", flush=True)
        try:
            fm.activate(z, "relu")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(fm.activate(z, "relu").sum())
    """
    process = processes.start("-c", textwrap.dedent(code), NUMBA_CACHE_DIR=tmp_path)
    assert process.stdout.readline() == "ready\n"
    assert "compiling" in process.stderr.read(len("fusedmlp: compiling"))
    process.send_signal(signal.SIGINT)
    output, _ = processes.finish(process)
    assert output == "interrupted\n6.0\n"


def test_an_optimizer_step_is_not_torn(monkeypatch):
    """Where several workers make it, the calling thread is none of them: so all have their part of it, or none, and
    Ctrl-C comes out afterwards."""
    backend, launched = fm.get_backend("cpu"), []

    def interrupted(body, dtype, workers, *arguments):
        launched.append((body, workers))
        return 0, KeyboardInterrupt()

    monkeypatch.setattr(backend, "launch_interruptible", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.launch("step", np.dtype(np.float32), 2)
    assert launched == [("step", 2)]


@pytest.mark.parametrize("scenario", ["ctrl_c_anywhere", "ctrl_c_along"])
def test_ctrl_c_at_every_point_of_the_hand_over(scenario):
    run(scenario)


@pytest.mark.parametrize("partition", ["out", "in", "rows"])
def test_more_workers_than_cores(partition):
    """4 and 7 workers, whatever the machine has: right answers, the same every time, and in good time."""
    backend, given = fm.get_backend("cpu"), runs.data(rows=200)
    expected_losses, expected = runs.trained(runs.executor(backend), given)
    for workers in (4, 7):
        results = [runs.trained(runs.executor(backend, partition=partition, workers=workers), given) for _ in range(2)]
        runs.assert_same(results[0][1], results[1][1])
        np.testing.assert_allclose(results[0][0], expected_losses, rtol=1e-4)
        for name, parameter in expected.items():
            np.testing.assert_allclose(results[0][1][name], parameter, rtol=1e-3, atol=1e-4)
