"""What the cost model chooses, on machines made up of round numbers."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from fusedmlp.backends.cpu import rates
from fusedmlp.backends.plan import WORTHWHILE, Plan, Rates, choose_plan, predicted_seconds, serial_plan
from fusedmlp.kernels import activations
from fusedmlp.kernels.program import Network

MACHINE = Rates(flops=1e11, elements=2e10, scaling=2.0, seam=2.5e-8, barrier=2e-7, handover=1e-5, transfer=2e10)


def network(*sizes):
    return Network(sizes, (activations.relu,) * (len(sizes) - 1))


SMALL, MNIST = network(64, 64, 10), network(784, 128, 10)


@pytest.mark.parametrize("given, batch", [(network(3, 2), 3), (network(8, 8, 2), 4), (SMALL, 1), (SMALL, 32)])
def test_little_work_stays_on_one_worker(given, batch):
    assert choose_plan(given, batch, 2, MACHINE) == serial_plan(given)


@pytest.mark.parametrize(
    "given, batch", [(network(256, 256, 10), 128), (MNIST, 64), (network(784, 1024, 1024, 10), 512)]
)
def test_more_work_is_shared(given, batch):
    assert choose_plan(given, batch, 2, MACHINE).workers == 2


def test_rows_move_the_weights():
    """Of 784-128-10 they are more than its activations."""
    by_rows = predicted_seconds(MNIST, 64, Plan(2, ("rows", "rows")), 2, MACHINE)
    assert by_rows > predicted_seconds(MNIST, 64, Plan(2, ("in", "rows")), 2, MACHINE)


def test_seams():
    """Where what lies side by side is shared out, each row has a seam: so the 784 rows of the first layer are shared
    out by rows, or else its few columns, as the machine is."""
    assert choose_plan(MNIST, 64, 2, MACHINE).partitions[0] == "in"
    assert choose_plan(network(32, 512, 10), 64, 2, MACHINE).partitions[0] == "out"


@pytest.mark.parametrize(
    "poor",
    [{"scaling": 1.0}, {"scaling": 1.2}, {"barrier": 1e-4}, {"transfer": 1e6}],
    ids=["two threads of one core", "little help", "slow to meet", "slow caches"],
)
def test_what_a_second_worker_does_not_pay_for(poor):
    assert choose_plan(MNIST, 64, 2, replace(MACHINE, **poor)).workers == 1


def test_neither_all_nor_one():
    """Of 64 cores that meet slowly a small training takes some, a large one all."""
    many = replace(MACHINE, scaling=64.0, barrier=2e-6)
    assert 1 < choose_plan(MNIST, 64, 64, many).workers < 64
    assert choose_plan(network(4096, 4096, 4096), 4096, 64, many).workers == 64


def test_a_layer_of_one_worker_has_no_seams():
    """Ten columns lie within one share, so nobody else's are beside them."""
    given, plan = network(512, 10), Plan(2, ("out",))
    torn = replace(MACHINE, seam=1e-3)
    assert predicted_seconds(given, 64, plan, 2, torn) == predicted_seconds(given, 64, plan, 2, MACHINE)
    wider = network(512, 32)
    assert predicted_seconds(wider, 64, plan, 2, torn) > predicted_seconds(wider, 64, plan, 2, MACHINE)


def test_a_plan_must_promise_a_fifth():
    for batch in (2, 4, 8, 16, 32, 64):
        chosen = choose_plan(SMALL, batch, 2, MACHINE)
        alone = predicted_seconds(SMALL, batch, serial_plan(SMALL), 2, MACHINE)
        assert chosen.workers == 1 or predicted_seconds(SMALL, batch, chosen, 2, MACHINE) < WORTHWHILE * alone


def test_prediction_counts_the_products():
    """With all but multiplication free, a step of one worker takes its products' operations at their rate."""
    free = replace(MACHINE, elements=1e30)
    products = sum((3 if layer else 2) * i * o for layer, (i, o) in enumerate(pairwise(MNIST.sizes)))
    expected = 2.0 * 64 * products / free.flops
    assert predicted_seconds(MNIST, 64, serial_plan(MNIST), 2, free) == pytest.approx(expected)


@pytest.mark.parametrize(
    "poor",
    [{"scaling": 1.1}, {"barrier": 1e-5}, {"transfer": 1e9}, {"seam": 1e-6}, {"elements": 1e9}],
    ids=lambda poor: next(iter(poor)),
)
def test_rates_are_the_best_of_some_measurements(monkeypatch, poor):
    """What one measurement finds poor is measured again, until it is not, and a few times at most."""
    bad, also = replace(MACHINE, flops=2e11, **poor), replace(MACHINE, flops=5e10, elements=3e10)
    made = iter([bad, bad, also, MACHINE])
    monkeypatch.setattr(rates, "measure", lambda backend: next(made))
    monkeypatch.setattr(rates, "PAUSE", 0.0)
    two = SimpleNamespace(threads_at_once=2)
    assert rates._undisturbed(two) == replace(MACHINE, flops=2e11, elements=3e10)
    assert list(made) == [MACHINE]
    monkeypatch.setattr(rates, "measure", lambda backend: bad)
    assert rates._undisturbed(two) == bad


def test_poor_rates_are_measured_again_by_the_next_processes(monkeypatch, tmp_path):
    """A program that kept a core meanwhile does not decide for ever; a machine that is so is believed in the end."""
    poor, made = replace(MACHINE, scaling=1.1), []

    def process(found):
        """The rates in a process that would measure `found`, and how often it measured."""
        backend = SimpleNamespace(threads_at_once=2, describe=lambda: "a processor", sources="these")
        made.clear()
        monkeypatch.setattr(rates, "measure", lambda backend: made.append(found) or found)
        return rates.rates_of(backend), len(made)

    monkeypatch.setattr(rates, "PAUSE", 0.0)
    monkeypatch.setattr(rates.os, "cpu_count", lambda: 2)  # in the key
    monkeypatch.setenv("FUSEDMLP_CACHE_DIR", str(tmp_path / "mended"))
    assert process(poor) == (poor, rates.ATTEMPTS)
    assert process(replace(poor, flops=2e11)) == (replace(poor, flops=2e11), 1)
    assert process(MACHINE) == (replace(MACHINE, flops=2e11), 1)
    assert process(poor) == (replace(MACHINE, flops=2e11), 0)
    monkeypatch.setenv("FUSEDMLP_CACHE_DIR", str(tmp_path / "so it is"))
    times = [process(poor)[1] for _ in range(rates.PROCESSES + 2)]
    assert times == [rates.ATTEMPTS, *[1] * (rates.PROCESSES - 1), 0, 0]
    file = tmp_path / "so it is" / "rates.json"
    for broken in (
        {"rates": 3},
        {"rates": vars(MACHINE) | {"flops": "x"}, "poor": 0},
        {"rates": vars(MACHINE)},
        [],
        None,
    ):
        file.write_text(json.dumps({"a processor, 2 processors, sources these": broken}))
        assert process(MACHINE) == (MACHINE, 1)
