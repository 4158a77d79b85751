"""The body that runs a program: steps, and within each step the instructions of the table.

One call runs many steps without returning. Each worker runs all of it over its share of every instruction; where
the table says so, they meet.
"""

from fusedmlp.kernels.batch_loss import loss_tile, total_loss
from fusedmlp.kernels.choice import instruction
from fusedmlp.kernels.dense import (
    activate_tile,
    add_span,
    add_to_rows,
    bias_update,
    dense_forward,
    gradient_tile,
    input_gradient,
    update_tile,
    weight_update,
)
from fusedmlp.kernels.program import (
    ACTIVATE,
    ACTIVATION_BACKWARD,
    B_AT,
    B_LENGTH,
    BACKWARD,
    BARRIER,
    BY_OUTPUT,
    FORWARD,
    FULL,
    GATHER,
    HOME,
    IN,
    INPUTS,
    JOIN,
    JOIN_BACKWARD,
    KEEP,
    KIND,
    LOSS,
    MEET_OR_LEAVE,
    MULTIPLE,
    OP,
    OUT,
    OUTPUTS,
    P_AT,
    PARTITION,
    PARTS,
    RESULT,
    ROWS,
    S_AT,
    S_LENGTH,
    SLOTS,
    STEP,
    STRIDE,
    TILES,
    TOTAL,
    UPDATE,
    W_AT,
    W_LENGTH,
    X_AT,
    X_LENGTH,
    Y_AT,
    Y_LENGTH,
)
from fusedmlp.kernels.sharing import count_tiles, share, tile
from fusedmlp.kernels.vocabulary import (
    barrier,
    block,
    const,
    finite,
    home,
    inner_loop,
    lane,
    lane_column,
    lane_columns,
    lane_row,
    lane_rows,
    lanes,
    lies_by_output,
    matrix,
    move_in,
    move_out,
    request_stop,
    row,
    stopped,
    sync_lanes,
    thin,
    vector,
    worker,
    workers,
)

# Why a run ended before its last step.
INTERRUPTED, NON_FINITE = 1, 2


def run(
    c,
    table,
    buffer,
    x,
    truth,
    sample_weights,
    labels,
    batch_labels,
    order,
    scalars,
    losses,
    result,
    batch,
    first_step,
    last_step,
    guarded,
):
    """Steps first_step to last_step - 1. Step s takes the rows order[s batch : (s + 1) batch] of the data.

    table           int64 (instructions, COLUMNS), the program
    buffer          the compute dtype, one-dimensional: parameters, state, work space
    x               (N, I); truth (N, O) or (0, O); sample_weights (N,) or (0,): the compute dtype
    labels          class indices, int64 (N,) or (0,); batch_labels: room for a batch of them
    order           int64 (N,); of a program in order nothing but its length counts
    scalars         the compute dtype (steps, optimizers.SCALARS + 1): the optimizer's, then the loss's factor
    losses          float64 (steps,), written: each step's loss
    result          (N, O) or (0, O), written where the program says RESULT
    guarded         whether a loss that is not finite stops the run before that step touches a parameter
    returns         how many steps were finished; why it stopped before the last one is the backend's to tell
    """
    data = (x, truth, sample_weights, labels, batch_labels, order, scalars, losses, result)
    move(c, table, buffer, True)
    finished, going = 0, True
    while going and finished < last_step - first_step:
        now = moment(finished, first_step + finished, batch, order, guarded)
        for number in range(table.shape[0]):
            i = row(table, number)
            going = meet(c, i)
            if not going:
                break
            op = i[OP]
            if op == FORWARD:
                forward(c, i, buffer, data, now)
            elif op == BACKWARD:
                backward(c, i, buffer, data, now)
            elif op == UPDATE:
                update(c, i, buffer, data, now)
            elif op == JOIN or op == JOIN_BACKWARD:
                join(c, i, buffer, data, now)
            elif op == GATHER:
                gather(c, i, buffer, data, now)
            elif op == LOSS:
                loss(c, i, buffer, data, now)
            elif op == TOTAL:
                total(c, i, buffer, data, now)
            elif op == ACTIVATE or op == ACTIVATION_BACKWARD:
                through_activation(c, i, buffer, data, now)
            elif op == STEP:
                step_alone(c, i, buffer, data, now)
            elif op == RESULT:
                copy_out(c, i, buffer, data, now)
        if going:
            finished += 1
    move(c, table, buffer, False)
    return finished


@thin
def move(c, table, buffer, inwards):
    """Each worker takes its own part of the weights home, with the optimizer's state, or brings it back."""
    for number in range(table.shape[0]):
        i = row(table, number)
        if i[OP] == UPDATE and i[HOME] > 0:
            first_row, last_row, first_column, last_column = 0, i[INPUTS], 0, i[OUTPUTS]
            if i[PARTITION] == OUT:
                first_column, last_column = columns_of(c, i, i[OUTPUTS])
            else:
                first_row, last_row = columns_of(c, i, i[INPUTS])
            for slot in range(i[SLOTS] + 1):
                at = i[W_AT] + slot * i[STRIDE]
                if inwards:
                    move_in(c, buffer, at, i[W_LENGTH], first_row, last_row, first_column, last_column)
                else:
                    move_out(c, buffer, at, i[W_LENGTH], first_row, last_row, first_column, last_column)


@thin
def meet(c, i):
    """The workers, or a worker's own lanes, meet before an instruction; whether they go on."""
    if i[BARRIER] == 0:
        sync_lanes(c)
        return True
    return barrier(c) and not (i[BARRIER] == MEET_OR_LEAVE and stopped(c) > 0)


FIRST, PASSED = 0, 1  # the words of a clock


def one(
    c,
    clock,
    table,
    buffer,
    x,
    truth,
    sample_weights,
    labels,
    batch_labels,
    order,
    scalars,
    losses,
    result,
    batch,
    number,
    ahead,
    guarded,
):
    """One instruction of one step, for an executor to which each is a call of its own: the end of the call is its
    barrier. It does nothing once a stop was requested.

    clock   int64 (2,): FIRST, the call's first step, and PASSED, how many steps of the call are behind it
    number  the instruction's row in the table, whose op the template is bound for
    ahead   how many steps after those the instruction's own comes

    The rest as in `run`.
    """
    if stopped(c) == 0:
        data = (x, truth, sample_weights, labels, batch_labels, order, scalars, losses, result)
        k, i = clock[PASSED] + ahead, row(table, number)
        now = moment(k, clock[FIRST] + k, batch, order, guarded)
        instruction(c, i, buffer, data, now)
        fill(c, i, buffer, now)


def fill(c, i, buffer, now):
    """Zeros in the rows of Y that a short batch lacks, where the program asks for them: an executor that leaves
    products to a library makes calls of the other instructions."""
    _, _, rows, _, batch, _ = now
    if i[FULL] > 0 and rows < batch:
        y = matrix(buffer, i[Y_AT], batch, i[Y_LENGTH])
        first, last = share(batch - rows, 1, worker(c), workers(c))
        for k in range(rows + first + lane_row(c), rows + last, lane_rows(c)):
            zero_span(c, vector(row(y, k), 0, i[FULL]))


@inner_loop
def zero_span(c, y):
    for j in range(lane_column(c), y.shape[0], lane_columns(c)):
        y[j] = const(y[j], 0)


def advance(c, clock, steps):
    """So many steps are done."""
    if stopped(c) == 0 and worker(c) == 0 and lane(c) == 0:
        clock[PASSED] += steps


# Every instruction is a body of the same form, (c, i, buffer, data, now): its row of the table, the buffer, what else
# the caller brought, in the order of `run`, and the moment.


@thin
def moment(k, s, batch, order, guarded):
    """Step k of a call, which is step s of the order: (k, its first row in the order, its rows, those of every step but
    the last, the most that a step may have, whether a loss that is not finite stops)."""
    start, rows = s * batch, order.shape[0]
    return k, start, min(batch, rows - start), min(batch, rows), batch, guarded


def step_scalars(row):
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8]


def parameters(i, buffer):
    return buffer[i[P_AT]], buffer[i[P_AT] + 1]


def columns_of(c, i, extent):
    return share(extent, i[MULTIPLE], worker(c), workers(c))


@thin
def rows_of(c, now):
    """This worker's rows of a step: of the last, where it is shorter, those that were its own in the others, so that
    what it leaves in the buffer nobody else meets."""
    _, _, rows, full, _, _ = now
    first, last = share(full, 1, worker(c), workers(c))
    return min(first, rows), min(last, rows)


@thin
def pieces_of(c, i, rows, own, columns):
    """(count, tiles): this worker's part of a matrix that is worked on element by element, in so many pieces: tile
    after tile, or else its own rows as one, which is what a rule of scope "row" asks for."""
    if i[PARTITION] == TILES:
        tiles = 0, rows, 0, columns, worker(c), workers(c)
        return count_tiles(c, tiles), tiles
    first, last = own
    return min(1, last - first), (first, last, 0, columns, 0, 1)


@thin
def piece(c, i, tiles, k):
    """(first row, rows, first column, columns) of the k-th of these pieces."""
    if i[PARTITION] == TILES:
        return tile(c, tiles, k)
    first, last, _, columns, _, _ = tiles
    return first, last - first, 0, columns


@thin
def rows_now(at, length, columns, a, buffer, now):
    """This step's rows of some data or of the result `a`, (rows, columns): those in the buffer, or with length 0 where
    they lie in `a`."""
    _, start, rows, _, _, _ = now
    if length > 0:
        return block(matrix(buffer, at, rows, length), 0, 0, rows, columns)
    return block(a, start, 0, rows, columns)


@thin
def gather(c, i, buffer, data, now):
    x, truth, weights, labels, batch_labels, order, _, _, _ = data
    _, start, rows, _, batch, _ = now
    rows_in_order = vector(order, start, rows)
    gather_rows(c, i, x, rows_in_order, now, block(matrix(buffer, i[Y_AT], batch, i[Y_LENGTH]), 0, 0, rows, i[INPUTS]))
    if truth.shape[0] > 0:
        to = block(matrix(buffer, i[B_AT], batch, i[B_LENGTH]), 0, 0, rows, i[OUTPUTS])
        gather_rows(c, i, truth, rows_in_order, now, to)
    first, last = rows_of(c, now)
    if labels.shape[0] > 0:
        for k in range(first + lane(c), last, lanes(c)):
            batch_labels[k] = labels[order[start + k]]
    if weights.shape[0] > 0:
        for k in range(first + lane(c), last, lanes(c)):
            buffer[i[W_AT] + k] = weights[order[start + k]]


def gather_rows(c, i, a, rows, now, y):
    """This worker's part of y (rows, n), whose row k is row rows[k] of a."""
    count, tiles = pieces_of(c, i, y.shape[0], rows_of(c, now), y.shape[1])
    for number in range(count):
        first, m, j, n = piece(c, i, tiles, number)
        for k in range(first + lane_row(c), first + m, lane_rows(c)):
            copy_span(c, vector(row(a, rows[k]), j, n), vector(row(y, k), j, n))


@inner_loop
def copy_span(c, a, y):
    for j in range(lane_column(c), y.shape[0], lane_columns(c)):
        y[j] = a[j]


@thin
def form_of_weight(c, i):
    """(whether it lies by input, its rows, its columns)."""
    if lies_by_output(c, i[BY_OUTPUT]):
        return False, i[OUTPUTS], i[INPUTS]
    return True, i[INPUTS], i[OUTPUTS]


@thin
def part_of_weight(weight, of_rows, first, count):
    """So many of its rows, or of its columns."""
    if of_rows:
        return block(weight, first, 0, count, weight.shape[1])
    return block(weight, 0, first, weight.shape[0], count)


@thin
def forward(c, i, buffer, data, now):
    (given, _, _, _, _, _, _, _, result), (_, _, rows, _, _, _) = data, now
    inputs, outputs = i[INPUTS], i[OUTPUTS]
    x = rows_now(i[X_AT], i[X_LENGTH], inputs, given, buffer, now)
    by_input, high, wide = form_of_weight(c, i)
    weight = block(home(c, buffer, i[W_AT], high, i[W_LENGTH]), 0, 0, high, wide)
    bias = vector(buffer, i[B_AT], outputs if i[B_LENGTH] > 0 else 0)
    p = parameters(i, buffer)
    first_row, last_row, first_column, last_column, first, every = 0, rows, 0, outputs, 0, 1
    at, saved_at = i[Y_AT], i[S_AT]
    if i[PARTITION] == OUT:
        first_column, last_column = columns_of(c, i, outputs)
    elif i[PARTITION] == ROWS:
        first_row, last_row = rows_of(c, now)
    elif i[PARTITION] == TILES:
        first, every = worker(c), workers(c)
    else:
        first_input, last_input = columns_of(c, i, inputs)
        part = last_input - first_input
        x, weight = block(x, 0, first_input, rows, part), part_of_weight(weight, by_input, first_input, part)
        at += worker(c) * i[STRIDE]
        saved_at = at
    y = rows_now(at, i[Y_LENGTH], outputs, result, buffer, now)
    saved = rows_now(saved_at, i[S_LENGTH], outputs, result, buffer, now)
    tiles = first_row, last_row, first_column, last_column, first, every
    dense_forward(c, x, weight, by_input, bias, y, saved, i[KEEP] > 0, i[KIND], p, tiles)


@thin
def backward(c, i, buffer, data, now):
    _, _, rows, _, _, _ = now
    inputs, outputs = i[INPUTS], i[OUTPUTS]
    dz = block(matrix(buffer, i[X_AT], rows, i[X_LENGTH]), 0, 0, rows, outputs)
    by_input, high, wide = form_of_weight(c, i)
    weight = block(home(c, buffer, i[W_AT], high, i[W_LENGTH]), 0, 0, high, wide)
    p = parameters(i, buffer)
    first_row, last_row, first_column, last_column, first, every = 0, rows, 0, inputs, 0, 1
    at, saved_at = i[Y_AT], i[S_AT]
    if i[PARTITION] == IN:
        first_column, last_column = columns_of(c, i, inputs)
    elif i[PARTITION] == ROWS:
        first_row, last_row = rows_of(c, now)
    elif i[PARTITION] == TILES:
        first, every = worker(c), workers(c)
    else:
        first_output, last_output = columns_of(c, i, outputs)
        part = last_output - first_output
        dz, weight = block(dz, 0, first_output, rows, part), part_of_weight(weight, not by_input, first_output, part)
        at += worker(c) * i[STRIDE]
        saved_at = at
    dx = block(matrix(buffer, at, rows, i[Y_LENGTH]), 0, 0, rows, inputs)
    saved = block(matrix(buffer, saved_at, rows, i[S_LENGTH]), 0, 0, rows, inputs)
    tiles = first_row, last_row, first_column, last_column, first, every
    input_gradient(c, dz, weight, by_input, saved, dx, i[KIND], p, tiles)


@thin
def join(c, i, buffer, data, now):
    """The partial sums of all workers, added in the order of the workers, then the epilogue of the layer."""
    (_, _, _, _, _, _, _, _, result), (_, _, rows, _, _, _) = data, now
    forwards = i[OP] == JOIN
    columns = i[OUTPUTS] if forwards else i[INPUTS]
    p = parameters(i, buffer)
    count, tiles = pieces_of(c, i, rows, rows_of(c, now), columns)
    for number in range(count):
        first, m, j, n = piece(c, i, tiles, number)
        sums = block(matrix(buffer, i[X_AT], rows, i[X_LENGTH]), first, j, m, n)
        for k in range(1, i[PARTS]):
            part = block(matrix(buffer, i[X_AT] + k * i[STRIDE], rows, i[X_LENGTH]), first, j, m, n)
            for r in range(lane_row(c), m, lane_rows(c)):
                add_span(c, row(part, r), row(sums, r))
        if i[B_LENGTH] > 0:
            add_to_rows(c, vector(buffer, i[B_AT] + j, n), sums)
        sync_lanes(c)
        y = block(rows_now(i[Y_AT], i[Y_LENGTH], columns, result, buffer, now), first, j, m, n)
        saved = block(rows_now(i[S_AT], i[S_LENGTH], columns, result, buffer, now), first, j, m, n)
        if forwards:
            activate_tile(i[KIND], c, sums, y, saved, i[KEEP] > 0, p)
        else:
            gradient_tile(i[KIND], c, sums, saved, y, p)


@thin
def through_activation(c, i, buffer, data, now):
    (_, _, _, _, _, _, _, _, result), (_, _, rows, _, _, _) = data, now
    p = parameters(i, buffer)
    count, tiles = pieces_of(c, i, rows, rows_of(c, now), i[OUTPUTS])
    for number in range(count):
        first, m, j, n = piece(c, i, tiles, number)
        y = block(rows_now(i[Y_AT], i[Y_LENGTH], i[OUTPUTS], result, buffer, now), first, j, m, n)
        if i[OP] == ACTIVATE:
            activate_tile(i[KIND], c, y, y, y, False, p)
        else:
            saved = block(matrix(buffer, i[S_AT], rows, i[S_LENGTH]), first, j, m, n)
            gradient_tile(i[KIND], c, y, saved, y, p)


@thin
def loss(c, i, buffer, data, now):
    _, truth, weights, labels, batch_labels, _, scalars, _, _ = data
    k, start, rows, _, _, guarded = now
    first, last = rows_of(c, now)
    in_order = i[W_LENGTH] == 0
    a = block(matrix(buffer, i[X_AT], rows, i[X_LENGTH]), 0, 0, rows, i[OUTPUTS])
    da = block(matrix(buffer, i[Y_AT], rows, i[Y_LENGTH]), 0, 0, rows, i[OUTPUTS])
    losses = matrix(buffer, i[S_AT], rows, 1)
    expected = rows_now(i[B_AT], i[B_LENGTH], i[OUTPUTS], truth, buffer, now) if truth.shape[0] > 0 else da
    weighted, labelled = rows if weights.shape[0] > 0 else 0, rows if labels.shape[0] > 0 else 0
    if in_order:
        weights = vector(weights, start if weighted > 0 else 0, weighted)
        labels = vector(labels, start if labelled > 0 else 0, labelled)
    else:
        weights, labels = vector(buffer, i[W_AT], weighted), vector(batch_labels, 0, labelled)
    factor = scalars[k, scalars.shape[1] - 1]
    loss_tile(i[KIND], c, a, expected, labels, da, losses, weights, factor, parameters(i, buffer), first, last)
    sync_lanes(c)
    if guarded and count_non_finite(c, vector(buffer, i[S_AT] + first, last - first)) > 0:
        request_stop(c, NON_FINITE, k)


@inner_loop
def count_non_finite(c, a):
    """Of what this lane has of a row. A sum has vectors, where a look at one element after the other has none (of 32
    losses 0.08 us, AMD EPYC)."""
    count = 0
    for j in range(lane(c), a.shape[0], lanes(c)):
        count += 0 if finite(a[j]) else 1
    return count


@thin
def total(c, i, buffer, data, now):
    (_, _, _, _, _, _, _, losses, _), (k, _, rows, _, _, _) = data, now
    if worker(c) == 0:
        of_step = total_loss(c, matrix(buffer, i[S_AT], rows, 1), rows)
        if lane(c) == 0:
            losses[k] = of_step


@thin
def update(c, i, buffer, data, now):
    (_, _, _, _, _, _, scalars, _, _), (k, _, rows, _, _, _) = data, now
    inputs, outputs = i[INPUTS], i[OUTPUTS]
    h = step_scalars(row(scalars, k))
    x = rows_now(i[X_AT], i[X_LENGTH], inputs, data[0], buffer, now)
    dz = block(matrix(buffer, i[Y_AT], rows, i[Y_LENGTH]), 0, 0, rows, outputs)
    by_input, high, wide = form_of_weight(c, i)
    weight, s0, s1, s2 = with_slots(c, i, buffer, i[W_AT], high, i[W_LENGTH])
    first_row, last_row, first_column, last_column, first, every = 0, high, 0, wide, 0, 1
    if i[PARTITION] == (OUT if by_input else IN):
        first_column, last_column = columns_of(c, i, wide)
    elif i[PARTITION] == (IN if by_input else OUT):
        first_row, last_row = columns_of(c, i, high)
    else:
        first, every = worker(c), workers(c)
    tiles = first_row, last_row, first_column, last_column, first, every
    of_rows, of_columns = (x, dz) if by_input else (dz, x)
    weight_update(c, of_rows, of_columns, weight, s0, s1, s2, i[KIND], h, tiles)
    if i[B_LENGTH] > 0:
        bias, s0, s1, s2 = with_slots(c, i, buffer, i[B_AT], 1, i[B_LENGTH])
        first_column, last_column = columns_of(c, i, outputs)
        bias_update(c, dz, bias, s0, s1, s2, i[KIND], h, first_column, last_column)


def with_slots(c, i, buffer, at, rows, length):
    """A parameter and its three slots of state. In the place of a slot that the rule does not keep, and never touches,
    stands the parameter itself."""
    stride, slots = i[STRIDE], i[SLOTS]
    return (
        home(c, buffer, at, rows, length),
        home(c, buffer, at + (stride if slots > 0 else 0), rows, length),
        home(c, buffer, at + (2 * stride if slots > 1 else 0), rows, length),
        home(c, buffer, at + (3 * stride if slots > 2 else 0), rows, length),
    )


@thin
def step_alone(c, i, buffer, data, now):
    (_, _, _, _, _, _, scalars, _, _), (k, _, _, _, _, _) = data, now
    h = step_scalars(row(scalars, k))
    _, high, wide = form_of_weight(c, i)
    step_block(c, i, buffer, i[W_AT], i[X_AT], high, i[W_LENGTH], wide, h)
    if i[B_LENGTH] > 0:
        step_block(c, i, buffer, i[B_AT], i[Y_AT], 1, i[B_LENGTH], i[OUTPUTS], h)


def step_block(c, i, buffer, at, gradient_at, rows, length, columns, h):
    weight, s0, s1, s2 = with_slots(c, i, buffer, at, rows, length)
    gradient = matrix(buffer, gradient_at, rows, length)
    count, tiles = pieces_of(c, i, rows, share(rows, 1, worker(c), workers(c)), columns)
    for number in range(count):
        first, m, j, n = piece(c, i, tiles, number)
        update_tile(
            i[KIND],
            c,
            block(gradient, first, j, m, n),
            block(weight, first, j, m, n),
            block(s0, first, j, m, n),
            block(s1, first, j, m, n),
            block(s2, first, j, m, n),
            h,
        )


@thin
def copy_out(c, i, buffer, data, now):
    (_, _, _, _, _, _, _, _, result), (_, start, rows, _, _, _) = data, now
    y = matrix(buffer, i[Y_AT], rows, i[Y_LENGTH])
    count, tiles = pieces_of(c, i, rows, rows_of(c, now), i[OUTPUTS])
    for number in range(count):
        first, m, j, n = piece(c, i, tiles, number)
        for k in range(first + lane_row(c), first + m, lane_rows(c)):
            copy_span(c, vector(row(y, k), j, n), vector(row(result, start + k), j, n))


# By op: what `one` is bound for.
INSTRUCTIONS = {
    GATHER: gather,
    FORWARD: forward,
    JOIN: join,
    ACTIVATE: through_activation,
    LOSS: loss,
    TOTAL: total,
    ACTIVATION_BACKWARD: through_activation,
    BACKWARD: backward,
    JOIN_BACKWARD: join,
    UPDATE: update,
    STEP: step_alone,
    RESULT: copy_out,
}
