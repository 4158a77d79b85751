"""The program: its barriers suffice and each of them is needed, no row holds a count of the batch, and the buffer is
laid out in blocks that are apart and aligned."""

import re
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

import runs
import turns
from fusedmlp.backends.backend import LINE
from fusedmlp.backends.errors import NonFinite
from fusedmlp.backends.feed import Data
from fusedmlp.backends.plan import Plan
from fusedmlp.kernels import activations, interpreter, losses, optimizers, program
from fusedmlp.kernels.program import BARRIER, COLUMNS, MEET_OR_LEAVE, OP, Geometry

PARTITIONS = [*product(("out", "in", "rows"), repeat=3)]
TILED = [("tiles",) * 3, ("out", "in", "tiles"), ("in", "tiles", "out"), ("tiles", "rows", "tiles")]
PARTITIONS += TILED
# Layers that exchange, hidden rules of both scopes, fused and unfused pairs of output and loss.
NETWORKS = [
    ("tanh", "identity", "mse", False),
    ("gelu", "softmax", "cross_entropy", True),
    ("softmax", "sigmoid", "half_mse", False),
    ("log_softmax", "softplus", "huber", False),
]
DEEP = (5, 18, 33, 20, 17, 4)


def trained_in(schedule, network, given, partition, workers, loss, in_order=False):
    made = runs.executor(turns.TurnsBackend(schedule), network, partition, workers)
    optimizer = optimizers.SGD(lr=0.05, momentum=0.9)
    return runs.trained(made, given, loss=loss, optimizer=optimizer, in_order=in_order)


def compiled_program(sizes, partitions, workers, *, loss="mse", hidden="tanh", batch=16, **options):
    return program.program(
        runs.network(sizes, hidden),
        Geometry(16, workers),
        batch=batch,
        partitions=tuple(program.PARTITIONS[name] for name in partitions),
        loss=loss and losses.get(loss),
        **options,
    )


def barriers(made):
    return [int(op) for op in made.table[made.table[:, BARRIER] > 0, OP]]


@pytest.mark.parametrize("hidden, output, loss, labels", NETWORKS, ids=lambda given: str(given))
@pytest.mark.parametrize("partition", PARTITIONS, ids="-".join)
def test_schedule_changes_nothing(hidden, output, loss, labels, partition):
    """Training, the last batch ragged, with 3 workers that take turns in every way, over rows that were gathered or
    that are read where they lie."""
    network = runs.network(hidden=hidden, output=output)
    given = runs.data(rows=18, labels=labels, weights=True)
    options = {"network": network, "given": given, "partition": partition, "workers": 3, "loss": loss}
    expected_losses, expected = trained_in(turns.forwards, **options)
    assert np.isfinite(expected_losses).all()
    for schedule, in_order in product((turns.forwards, *turns.schedules()), (False, True)):
        found_losses, found = trained_in(schedule, **options, in_order=in_order)
        np.testing.assert_array_equal(found_losses, expected_losses)
        runs.assert_same(found, expected)


@pytest.mark.parametrize("partition", PARTITIONS, ids="-".join)
def test_workers_agree_with_one(partition):
    """Sharing out changes an order of summation, and nothing else."""
    network, given = runs.network(), runs.data(rows=18)
    one = trained_in(turns.forwards, network, given, "out", 1, "mse")
    three = trained_in(turns.forwards, network, given, partition, 3, "mse")
    np.testing.assert_allclose(three[0], one[0], rtol=1e-5)
    for name in one[1]:
        np.testing.assert_allclose(three[1][name], one[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("partition", PARTITIONS, ids="-".join)
@pytest.mark.parametrize("optimizer", [optimizers.SGD(lr=0.05), optimizers.Adam()], ids=["sgd", "adam"])
def test_weights_at_home(partition, optimizer):
    """A worker's own weights and their state in memory that no other worker sees: the same bits, in calls of one step
    and of many."""
    network, given, found = runs.network(), runs.data(rows=18), []
    for words in ({}, turns.AT_HOME):
        made = runs.executor(turns.TurnsBackend(turns.mixed(5), **words), network, partition, 3)
        found.append(runs.trained(made, given, epochs=2, optimizer=optimizer))
    np.testing.assert_array_equal(found[1][0], found[0][0])
    runs.assert_same(found[1][1], found[0][1])


def test_weights_at_home_are_moved():
    """Pairs take all weights home, layers by rows or tiles none; gradients stay in the buffer."""
    for partition, homes in (("out", 3), ("in", 3), ("rows", 0), ("tiles", 0), (("rows", "out", "in"), 2)):
        partitions = (partition,) * 3 if isinstance(partition, str) else partition
        assert (
            compiled_program(runs.SIZES, partitions, 2, update=optimizers.SGD_UPDATE).table[:, program.HOME].sum()
            == homes
        )
        assert not compiled_program(runs.SIZES, partitions, 2).table[:, program.HOME].any()


@pytest.mark.parametrize(
    "partition", ["out", "in", "rows", "tiles", ("rows", "out", "in"), ("in", "rows", "rows")], ids=str
)
@pytest.mark.parametrize("rows", [5, 16, 37])
def test_prediction_on_any_schedule(partition, rows):
    """Without a barrier, where all layers go by rows; the batch after a full one is ragged."""
    network, x = runs.network(), runs.data(rows=rows).x
    found = []
    for schedule in (turns.forwards, *turns.schedules()):
        made = runs.executor(turns.TurnsBackend(schedule), network, partition, 3)
        made._steps_of_a_call = lambda key: len(x)
        found.append(made.predict(x, 16, plan=made._given_plan))
    assert np.isfinite(found[0]).all()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("in_order", [False, True])
def test_predictions_by_rows_meet_nowhere(in_order):
    """A worker's rows of the buffer are its own in each step."""
    made = compiled_program((8, 16, 16, 4), ("rows",) * 3, 2, loss=None, in_order=in_order)
    assert barriers(made) == []


@pytest.mark.parametrize("rows, steps", [(256, [256]), (300, [160, 140]), (384, [192] * 2), (1000, [256] * 3 + [232])])
def test_steps_of_a_prediction_by_rows_are_even(rows, steps):
    """Or else a worker would have nothing to do in a short last one."""
    made = runs.executor(turns.TurnsBackend(turns.forwards), runs.network(), "rows", 2)
    made.predict(runs.data(rows=rows).x, plan=made._given_plan)
    *_, (composed, _) = made._programs.values()
    assert composed.batch == steps[0] and -(-rows // composed.batch) == len(steps)
    assert rows - (len(steps) - 1) * composed.batch == steps[-1]


@pytest.mark.parametrize("partition", ["out", "in", "rows", "tiles"])
def test_gradients_and_step_on_any_schedule(partition):
    network, given, found = runs.network(), runs.data(rows=11), []
    for schedule in (turns.forwards, *turns.schedules()):
        made = runs.executor(turns.TurnsBackend(schedule), network, partition, 3)
        loss, gradients = made.gradients(given, losses.mse, 1 / 11)
        made.apply(gradients, optimizers.Adam())
        found.append((loss, gradients, made.read()))
    for loss, gradients, parameters in found[1:]:
        assert loss == found[0][0]
        runs.assert_same(gradients, found[0][1])
        runs.assert_same(parameters, found[0][2])


KERNELS = {
    "dense_forward": lambda a, backend: backend.dense_forward(a["x"], a["weight"], a["bias"], a["rule"]),
    "dense_backward": lambda a, backend: backend.dense(a["x"], a["weight"], a["bias"], a["rule"])[1](a["dy"]),
    "activate": lambda a, backend: backend.activate(a["dy"], a["rule"]),
    "cross_entropy": lambda a, backend: backend.cross_entropy(a["dy"], a["labels"]),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("rule", ["gelu", "softmax"])
def test_single_kernels_on_any_schedule(name, rule):
    rng = np.random.default_rng(3)
    batch, inputs, outputs = 70, 21, 50  # several panels of dense_backward
    arguments = {
        "x": rng.normal(size=(batch, inputs)),
        "weight": rng.normal(size=(outputs, inputs)),
        "bias": rng.normal(size=outputs),
        "dy": rng.normal(size=(batch, outputs)),
        "labels": rng.integers(0, outputs, batch),
        "rule": rule,
    }
    found = []
    for schedule in (turns.forwards, *turns.schedules()):
        backend = turns.TurnsBackend(schedule)
        backend.workers, backend.panel = 3, 16 * outputs * 8
        results = KERNELS[name](arguments, backend)
        found.append(results if isinstance(results, tuple) else (results,))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(other, one)


@pytest.mark.parametrize("in_order", [False, True], ids=["gathered", "in order"])
@pytest.mark.parametrize(
    "partition", [("out", "in", "out"), ("rows", "out", "in"), ("in", "in", "rows"), ("tiles",) * 3], ids="-".join
)
def test_every_barrier_is_needed(partition, in_order, monkeypatch):
    """Take away any one barrier, and some schedule gives another result: the tests above would find it missing,
    and none is there for nothing."""
    workers = 2 if "tiles" in partition else 3  # with 3, some tiles of the layers are by chance the same workers'
    network, given = runs.network(), runs.data(rows=18)
    options = {"network": network, "given": given, "partition": partition, "workers": workers, "loss": "mse"}
    options["in_order"] = in_order
    expected_losses, expected = trained_in(turns.forwards, **options)
    momentum = {"update": optimizers.MOMENTUM_UPDATE, "slots": 1, "in_order": in_order}
    rows = np.flatnonzero(compiled_program(runs.SIZES, partition, workers, batch=8, **momentum).table[:, BARRIER])
    whole = program._Writer.table

    def differs(schedule):
        try:
            found_losses, found = trained_in(schedule, **options)
        except (NonFinite, AssertionError):  # NaN, or workers that no longer meet
            return True
        return not (np.array_equal(found_losses, expected_losses) and runs.same(found, expected))

    for row in rows:

        def without(writer, row=row):
            table = whole(writer)
            if len(table) > row and program.LOSS in table[:, OP]:
                table[row, BARRIER] = 0
            return table

        monkeypatch.setattr(program._Writer, "table", without)
        assert any(differs(schedule) for schedule in (*turns.schedules(), turns.forwards)), (
            f"the barrier before instruction {row} of {partition} guards nothing that a test can see"
        )


LIBRARIES = [("library",) * 3, ("library", "own", "library"), ("own", "library", "own")]


@pytest.mark.parametrize("products", LIBRARIES, ids="-".join)
@pytest.mark.parametrize("hidden, output, loss, labels", NETWORKS, ids=lambda given: str(given))
def test_products_of_their_own(hidden, output, loss, labels, products, monkeypatch):
    """Products as a library makes them, apart from what comes before and after, on any schedule: what the fused ones
    give, but for roundings. A short batch is filled up with zeros."""
    network, given = runs.network(hidden=hidden, output=output), runs.data(rows=18, labels=labels, weights=True)
    options = {"network": network, "given": given, "partition": "tiles", "workers": 3, "loss": loss}
    fused_losses, fused = trained_in(turns.forwards, **options)
    monkeypatch.setattr(Plan, "libraries", lambda plan: tuple(product == "library" for product in products))
    found_losses, found = trained_in(turns.forwards, **options)
    np.testing.assert_allclose(found_losses, fused_losses, rtol=1e-5)
    for name in fused:
        np.testing.assert_allclose(found[name], fused[name], rtol=1e-4, atol=1e-5)
    for schedule in turns.schedules():
        other_losses, other = trained_in(schedule, **options)
        np.testing.assert_array_equal(other_losses, found_losses)
        runs.assert_same(other, found)


def test_pairs_meet_once_a_layer():
    """An "out" layer hands its columns to the same worker's "in" layer: no barrier between them, forwards or
    backwards, nor before any update of a weight."""
    made = compiled_program((8, 16, 16, 16, 4), ("out", "in", "out", "in"), 2, update=optimizers.SGD_UPDATE)
    p = program
    assert barriers(made) == [
        *(p.GATHER, p.FORWARD, p.JOIN, p.FORWARD, p.JOIN),  # forwards: the batch, then once before and after a pair
        *(p.TOTAL, p.JOIN_BACKWARD, p.BACKWARD),
    ]


def test_rows_in_order_are_not_gathered():
    """Nor is there room for them, or a barrier before they are read; and weights of an "in" layer, whose rows are
    the same in each step, are no reason for one either."""
    p, options = program, {"update": optimizers.SGD_UPDATE, "batch": 64}
    gathers = compiled_program((784, 128, 10), ("in", "rows"), 2, **options)
    reads = compiled_program((784, 128, 10), ("in", "rows"), 2, **options, in_order=True)
    assert p.GATHER in gathers.table[:, OP] and p.GATHER not in reads.table[:, OP]
    assert gathers.layout.length - reads.layout.length == 64 * 784 + 64 * 16 + 64
    assert barriers(reads) == [p.JOIN, p.TOTAL, p.UPDATE]
    with pytest.raises(ValueError, match="in_order: expected no products by libraries"):
        compiled_program((8, 4), ("tiles",), 2, libraries=(True,), in_order=True)


def test_one_worker_exchanges_nothing():
    """And meets nobody, but where it may leave."""
    for partition in PARTITIONS:
        made = compiled_program(runs.SIZES, partition, 1, update=optimizers.SGD_UPDATE)
        ops = made.table[:, OP].tolist()
        assert not {program.JOIN, program.JOIN_BACKWARD} & set(ops)
        assert np.flatnonzero(made.table[:, BARRIER]).tolist() == [ops.index(program.LOSS) + 1]


def test_training_has_no_room_for_a_weight_gradient():
    """A gradient lives in a tile of scratch: a program that trains lays out no block for it, one for gradients does."""
    trains = compiled_program(runs.SIZES, ("out",) * 3, 1, update=optimizers.SGD_UPDATE)
    assert not trains.gradients
    weights = {tuple(shape) for _, shape in runs.network().parameters() if len(shape) == 2}
    work = [b for name, b in trains.layout.blocks.items() if name not in trains.parameters]
    assert not weights & {(b.rows, b.columns) for b in work}
    assert set(compiled_program(runs.SIZES, ("out",) * 3, 1).gradients) == set(trains.parameters)


@pytest.mark.parametrize(
    "partitions, expected", [(("tiles",) * 3, program.TILES), (("in", "out", "rows"), program.ROWS)]
)
def test_element_by_element_as_the_layer(partitions, expected):
    """Layers by tiles have what is done element by element by tiles too, other layers by rows; a rule over a row finds
    it whole."""
    p, met = program, set()
    element = {p.GATHER, p.JOIN, p.JOIN_BACKWARD, p.ACTIVATION_BACKWARD, p.STEP, p.RESULT}
    libraries = (expected == p.TILES,) * 3
    for hidden, loss, update in product(("gelu", "softmax"), ("mse", None), (optimizers.SGD_UPDATE, None)):
        made = compiled_program(runs.SIZES, partitions, 2, hidden=hidden, loss=loss, libraries=libraries, update=update)
        for i in made.table[np.isin(made.table[:, OP], [*element, p.ACTIVATE, p.LOSS])]:
            over_rows = i[OP] in (p.ACTIVATE, p.LOSS) or (i[OP] == p.ACTIVATION_BACKWARD and hidden == "softmax")
            assert i[p.PARTITION] == (p.ROWS if over_rows else expected), i[OP]
            met.add(int(i[OP]))
    assert element | {p.ACTIVATE, p.LOSS} == met | ({p.JOIN_BACKWARD} if expected == p.TILES else set())


def test_every_scalar_of_a_step_reaches_its_rule():
    assert interpreter.step_scalars(range(optimizers.SCALARS)) == tuple(range(optimizers.SCALARS))
    table = np.zeros(program.COLUMNS, np.int64)
    table[program.P_AT] = 3
    assert interpreter.parameters(table, range(9)) == (3, 4)[: activations.PARAMETERS]


@pytest.mark.parametrize("workers", [1, 2])
def test_loss_is_met_before_any_parameter_moves(workers):
    """Whatever the plan, the workers may leave between the loss and the first write to a parameter, and there alone."""
    for partition in PARTITIONS:
        table = compiled_program(runs.SIZES, partition, workers, update=optimizers.SGD_UPDATE).table
        leaves = np.flatnonzero(table[:, BARRIER] == MEET_OR_LEAVE)
        ops = table[:, OP].tolist()
        assert leaves.tolist() == [ops.index(program.LOSS) + 1]
        assert program.UPDATE not in ops[: leaves[0]]


@pytest.mark.parametrize("partition", PARTITIONS, ids="-".join)
def test_no_row_depends_on_the_batch(partition):
    """Programs for 16 and for 32 rows differ in where blocks lie and in nothing else, so neither has a count of rows;
    each runs the ragged last batch."""
    places = [
        *(program.X_AT, program.W_AT, program.B_AT, program.Y_AT, program.S_AT, program.P_AT, program.STRIDE),
    ]
    others = [column for column in range(COLUMNS) if column not in places]
    for options in ({"update": optimizers.ADAM_UPDATE, "slots": 2}, {"loss": None}, {}):
        one, two = (compiled_program(runs.SIZES, partition, 2, batch=batch, **options).table for batch in (16, 32))
        # The block of sample weights is one row as long as the batch: only its offset is ever read.
        one[one[:, OP] == program.GATHER, program.W_LENGTH] = two[two[:, OP] == program.GATHER, program.W_LENGTH] = 0
        one[one[:, OP] == program.LOSS, program.W_LENGTH] = two[two[:, OP] == program.LOSS, program.W_LENGTH] = 0
        for table in (one, two):  # and so is that of their losses
            table[np.isin(table[:, OP], (program.LOSS, program.TOTAL)), program.S_LENGTH] = 0
        np.testing.assert_array_equal(one[:, others], two[:, others])


def test_ragged_batch_runs_the_same_program(backend):
    """3 rows behind two batches of 8: what a program made for 3 rows gives, from the same parameters."""
    network, given = runs.network(), runs.data(rows=19)
    optimizer = optimizers.SGD(lr=0.05)
    whole = runs.executor(backend, network)
    whole_losses, whole_parameters = runs.trained(whole, given, optimizer=optimizer)
    parts = runs.executor(backend, network)
    runs.trained(parts, given, optimizer=optimizer, steps=2)
    rest = Data(given.x[16:], given.truth[16:])
    rest_losses, rest_parameters = runs.trained(parts, rest, optimizer=optimizer)
    assert whole_losses[2:] == rest_losses
    runs.assert_same(whole_parameters, rest_parameters)


@pytest.mark.parametrize("outputs", [*range(1, 18), 33])
def test_weights_of_few_outputs_follow_on_one_another(outputs):
    """Rows that fill no line of cache have no gap, or lie in one line, and are not mostly empty; longer ones begin with
    a line."""
    for gapless in (True, False):
        geometry = Geometry(16, 2, gapless=gapless)
        length = geometry.row_length(outputs)
        if outputs >= 16:
            assert length % 16 == 0 and outputs <= length < outputs + 16
        elif gapless:
            assert length == outputs
        else:
            assert 16 % length == 0 and outputs <= length < 2 * outputs
        made = program.program(runs.network((1000, outputs)), geometry, batch=4)
        assert made.parameters["0.weight"].extent == 1000 * length


def test_weights_of_few_outputs_lie_by_output():
    """But for those of the first layer, and for a backend that has none; which way, every instruction knows that reads
    or writes them, and no other."""
    p, sizes = program, (20, 10, 16, 15, 3, 40, 3)  # layers 2 and 5 have at least a line of inputs, and less of outputs
    options = {"batch": 4, "update": optimizers.SGD_UPDATE}
    for by_output, loss in product((True, False), (losses.mse, None)):
        made = p.program(runs.network(sizes), Geometry(16, 1, by_output=by_output), loss=loss, **options)
        turned = {2, 5} if by_output else set()
        for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
            block = made.parameters[f"{2 * layer}.weight"]
            assert (block.rows, block.columns) == ((outputs, inputs) if layer in turned else (inputs, outputs))
            assert block.by_output == (layer in turned)
            of_layer = made.table[made.table[:, p.W_AT] == block.at]
            of_layer = of_layer[np.isin(of_layer[:, OP], (p.FORWARD, p.BACKWARD, p.UPDATE, p.STEP))]
            assert len(of_layer) == (1 if loss is None else 3 if layer else 2)
            assert (of_layer[:, p.BY_OUTPUT] == (layer in turned)).all()
        steps = 1 if loss is None else 3
        assert made.table[:, p.BY_OUTPUT].sum() == steps * len(turned)


@pytest.mark.parametrize("partition", PARTITIONS, ids="-".join)
def test_by_output_as_by_input(partition):
    """The same training, but for roundings, and the same parameters, as they were written."""
    network, given, found = runs.network(), runs.data(rows=18), []
    for by_output in (True, False):
        backend = turns.TurnsBackend(turns.mixed(7))
        backend.by_output = by_output
        made = runs.executor(backend, network, partition, 3)
        assert made._parameters["4.weight"].by_output == by_output
        before = made.read()
        of_steps, parameters = runs.trained(made, given)
        gradients = made.gradients(given, losses.mse, 1 / 18)[1]
        made.apply(gradients, optimizers.Adam(0.01))
        found.append((before, of_steps, parameters, gradients, made.read()))
    (before, of_steps, *after), (its, other, *right) = found
    runs.assert_same(before, its)
    np.testing.assert_allclose(of_steps, other, rtol=1e-5)
    for ours, theirs in zip(after, right, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_rows_do_not_collide():
    """1024 numbers of float32 are 4 KiB: rows of as many, of weights, activations and partial sums, are a line further
    apart; on a backend that does not mind they are not."""
    sizes, places = (2048, 1024, 3072, 10), (program.X_LENGTH, program.W_LENGTH, program.Y_LENGTH, program.S_LENGTH)
    for colliding, found in ((1024, set()), (0, {1024, 2048, 3072})):
        made = program.program(
            runs.network(sizes),
            Geometry(16, 2, colliding=colliding),
            batch=1000,
            partitions=(program.OUT, program.IN, program.OUT),
            loss=losses.mse,
            update=optimizers.SGD_UPDATE,
        )
        lengths = {int(length) for length in made.table[:, places].flat}
        assert {length for length in lengths if length and length % 1024 == 0} == found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workers", [1, 3])
def test_blocks_are_aligned_and_apart(dtype, workers):
    alignment = LINE // np.dtype(dtype).itemsize
    for partition in PARTITIONS:
        made = program.program(
            runs.network(DEEP[:4], "gelu"),
            Geometry(alignment, workers),
            batch=11,
            partitions=tuple(program.PARTITIONS[name] for name in partition),
            loss=losses.mse,
            update=optimizers.ADAM_UPDATE,
            slots=2,
        )
        blocks = sorted(made.layout.blocks.values(), key=lambda block: block.at)
        for block in blocks:
            assert block.at % alignment == block.length % alignment == 0, block
            assert block.columns <= block.length, block
        for one, other in pairwise(blocks):
            assert one.at + one.extent <= other.at, (one, other)
        assert blocks[-1].at + blocks[-1].extent <= made.layout.length
        # Parameters in front, then their slots, then everything else.
        stride = made.carried // 3
        assert all(block.at + block.extent <= stride for block in made.parameters.values())
        assert all(
            block.at >= made.carried for name, block in made.layout.blocks.items() if name not in made.parameters
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_buffer_is_aligned(backend, dtype):
    for seed in range(5):
        made = runs.executor(backend, dtype=dtype, seed=seed)
        assert made._buffer.ctypes.data % LINE == 0
        runs.trained(made, runs.data(dtype=dtype), steps=1)
        assert made._buffer.ctypes.data % LINE == 0


def test_architectures_share_a_layout_of_parameters():
    """Another batch, loss or optimizer finds the parameters where they were."""
    programs = [
        compiled_program(runs.SIZES, ("out", "in", "rows"), workers, loss=loss, batch=batch, **options)
        for workers in (1, 2)
        for batch in (1, 64)
        for loss, options in (("mse", {}), ("mse", {"update": optimizers.ADAM_UPDATE, "slots": 2}), (None, {}))
    ]
    assert all(made.parameters == programs[0].parameters for made in programs)


def test_rules_are_numbered_by_their_place():
    table = compiled_program(runs.SIZES, ("out",) * 3, 1, hidden="gelu", update=optimizers.ADAM_UPDATE, slots=2).table
    names = [rule.name for rule in activations.REGISTRY.values()]
    hidden = table[table[:, OP] == program.FORWARD, program.KIND]
    assert [names[number] for number in hidden] == ["gelu", "gelu", "identity"]


LIBRARY_PLAN = (1, ("tiles",), "instructions", ("library",))
BAD_PLANS = [
    ((1, "out"), "partitions must be a tuple of names, one for each layer, got 'out'"),
    ((1, None), "partitions must be a tuple"),
    ((1, ()), "partitions must name one for each layer, got none"),
    ((1, ("tiles",), "instructions", "library"), "products must be a tuple"),
    ((1, ("tiles",), "instructions", ("blas",)), "unknown product 'blas'; expected one of own, library"),
    ((1, ("tiles",), "instructions", ("own", "own")), "expected 1 products, got 2"),
    ((1, ("out",), "instructions"), "instructions are launched by tiles, got partitions out"),
    ((1, ("tiles",), "steps", ("library",)), "products by a library need launch='instructions', got launch='steps'"),
    ((1, ("tiles",), "graph"), "unknown launch 'graph'; expected one of steps, instructions"),
    ((*LIBRARY_PLAN, "00"), "algorithms must be a tuple of pairs, a product in words and hexadecimal digits, got '00'"),
    ((*LIBRARY_PLAN, {"a @ b": "00"}), "algorithms must be a tuple of pairs"),
    ((*LIBRARY_PLAN, ("ab",)), "a product in words and hexadecimal digits, got 'ab'"),
    ((*LIBRARY_PLAN, (("a @ b",),)), "algorithms must be a tuple of pairs"),
    ((*LIBRARY_PLAN, (("a @ b", b"00"),)), "algorithms must be a tuple of pairs"),
    ((*LIBRARY_PLAN, (("a @ b", "0"),)), "hexadecimal digits, two a byte, got '0' for a @ b"),
    ((*LIBRARY_PLAN, (("a @ b", "0x"),)), "hexadecimal digits, two a byte, got '0x'"),
    ((*LIBRARY_PLAN, (("a @ b", "00"), ("a @ b", "01"))), "one algorithm a product, got several for a @ b"),
    ((1, ("tiles",), "instructions", ("own",), (("a @ b", "00"),)), "algorithms are those of products by a library"),
    ((1, ("out",), "steps", (), (("a @ b", "00"),)), "algorithms are those of products by a library"),
    ((0, ("out",)), "workers must be a whole number of at least 1, got 0"),
    ((1.5, ("out",)), "workers must be a whole number of at least 1, got 1.5"),
]


@pytest.mark.parametrize("given, words", BAD_PLANS, ids=str)
def test_bad_plan(given, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Plan(*given)


def test_plan_takes_any_sequence_and_whole_number():
    assert Plan(np.int64(2), ["out", "in"]) == Plan(2, ("out", "in"))
    assert hash(Plan(2, ["out", "in"])) == hash(Plan(2, ("out", "in")))
    named = Plan(*LIBRARY_PLAN, [["a @ b", "00ff"]])
    assert named == Plan(*LIBRARY_PLAN, (("a @ b", "00ff"),)) and hash(named) == hash(replace(named))


PLANS = [
    Plan(1, ("out",)),
    Plan(np.int64(2), ["out", "in", "rows"]),
    Plan(*LIBRARY_PLAN, (("a @ b in 'words'", "00ff"), ("b @ c", "01"))),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_repr_of_a_plan_makes_it_again(plan):
    assert eval(repr(plan), {"Plan": Plan}) == plan


def test_plan_names_algorithms():
    """One line for each product, and what is not named has none."""
    plan = Plan(*LIBRARY_PLAN, (("a @ b", "00ff"), ("b @ c", "01")))
    assert (plan.algorithm("a @ b"), plan.algorithm("b @ c"), plan.algorithm("a @ c")) == (b"\x00\xff", b"\x01", None)
    assert str(plan).splitlines()[1:] == ["  a @ b: 00ff", "  b @ c: 01"]
