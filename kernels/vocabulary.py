"""The words that bodies and rules speak, each with its contract. A backend defines every one of them.

A rule or a body is plain Python over these names. Called as they stand here, they raise: `backends/binder.py`
rebuilds the calling function so that each word means what one backend says it means.

`c` is the context, whatever a backend needs in order to know who is calling. A *worker* is whoever owns a
tile (a thread of the processor, a block of a graphics card); its *lanes* share the tile's elements.
A *block* is a two-dimensional view whose rows are contiguous; it may be wider in memory than it says.
"""

from collections.abc import Callable
from typing import Any

WORDS: dict[str, Callable[..., Any]] = {}


def word(declaration: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a declaration under its name; calling it unbound is an error."""

    def unbound(*_arguments: Any) -> Any:
        raise NotImplementedError(f"{declaration.__name__} is a word: bind the calling function to a backend first")

    unbound.__name__ = declaration.__name__
    unbound.__doc__ = declaration.__doc__
    WORDS[declaration.__name__] = unbound
    return unbound


def thin(body: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a body that becomes part of its caller when compiled: it has one caller, or next to nothing in it, or
    returns a view, which compiled functions do not."""
    body.thin = True  # type: ignore[attr-defined]
    return body


def inner_loop(body: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a loop over a row that becomes part of its caller's machine code, where another loop stays a function: the
    thirty words of a call's arguments cost as much as a row of 64 numbers. A formula is marked as well if it is so long
    that its loop would call it, and have no vectors."""
    body.inner_loop = True  # type: ignore[attr-defined]
    return body


# Numbers. Each has the dtype of its argument, on every backend.


@word
def const(like, value):
    """The Python number `value` as a scalar of the dtype of `like`: a bare 0.5 would make float32 into float64."""


@word
def exp(z):
    """e to the z."""


@word
def expm1(z):
    """e to the z, less one, exact near z = 0."""


@word
def log(z):
    """The natural logarithm."""


@word
def log1p(z):
    """The natural logarithm of 1 + z, exact near z = 0."""


@word
def tanh(z):
    """The hyperbolic tangent."""


@word
def erf(z):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t²) from 0 to z."""


@word
def sqrt(z):
    """The square root; NaN below zero."""


@word
def finite(z):
    """Whether z is neither infinite nor NaN."""


@word
def double(z):
    """z as float64: for the loss's running sum, and for nothing else."""


# Who calls, and how callers meet.


@word
def worker(c):
    """The caller's number, from 0 to workers(c) - 1."""


@word
def workers(c):
    """How many workers run the body."""


@word
def barrier(c):
    """Returns when every worker has called it; what any of them wrote before is seen by all after."""


@word
def request_stop(c, reason, step):
    """Asks all workers to stop before step `step` of the call is finished; the reason (a positive integer) is published
    at the next barrier."""


@word
def stopped(c):
    """The published reason, or 0. Between two barriers every worker reads the same."""


@word
def lane(c):
    """The caller's number among the lanes of its worker, from 0 to lanes(c) - 1."""


@word
def lanes(c):
    """How many lanes a worker has."""


@word
def lane_row(c):
    """The caller's row where the lanes are laid out over a tile, from 0 to lane_rows(c) - 1."""


@word
def lane_rows(c):
    """How many rows of lanes lie over a tile."""


@word
def lane_column(c):
    """The caller's column where the lanes are laid out over a tile, from 0 to lane_columns(c) - 1."""


@word
def lane_columns(c):
    """How many columns of lanes lie over a tile."""


@word
def sync_lanes(c):
    """Returns when every lane of this worker has called it; what they wrote is then seen by all of them."""


@word
def stretch_length(c):
    """How many elements of a row its worker adds up before it compensates (see kernels/summation.py): STRETCH for each
    that it adds to by itself."""


@word
def stretch_sum(c, a):
    """The sum of what this lane has of `a`, at most stretch_length(c) elements of a row: of every lanes(c)-th element,
    from its own on. The order of summation depends on the length of `a` and on nothing else."""


@word
def stretch_exp(c, z, m, y):
    """The same sum of y = exp(z - m), which it writes. y may be z."""


@word
def stretch_max(c, a):
    """The greatest of what this lane has of `a`; where NaN is among it, any number."""


@word
def row_sum(c, part, count):
    """The sum of what the first `count` lanes of this worker bring, or all where it has fewer, in an order that depends
    on their number alone; known to each lane."""


@word
def row_max(c, part, count):
    """The greatest of what these lanes bring, known to each lane."""


@word
def double_sum(c, part, count):
    """As `row_sum`, of float64s: for the loss's running sum, and for nothing else."""


@word
def rows_max(c, a, m):
    """m[i] = the greatest element of row i of the block `a`; where NaN is among them, any number. m is contiguous, as
    is s below. All lanes of this worker meet before it returns."""


@word
def rows_exp(c, z, m, y, s):
    """y = exp(z - m), m[i] being taken from row i of the block z, and s[i] = the sum of row i of y; a row has at most
    stretch_length(c) elements. y may be z. The order of summation depends on the length of the rows and on nothing
    else. All lanes of this worker meet before it returns."""


# Memory.


@word
def matrix(buffer, at, rows, columns):
    """The view (rows, columns) of a one-dimensional buffer from element `at` on, without a check."""


@word
def vector(buffer, at, length):
    """The view (length,) of a contiguous array from element `at` on, without a check."""


@word
def home(c, buffer, at, rows, columns):
    """A layer's weights where they live for this worker, as `matrix` gives them: of what was taken home, this worker
    touches its own part alone."""


@word
def lies_by_output(c, flag):
    """Whether a layer's weights lie by output, as the flag in the table says: never, on a backend that has none."""


@word
def move_in(c, buffer, at, columns, first_row, last_row, first_column, last_column):
    """Takes a part of the matrix from element `at` of the buffer on home: where this worker has room for a copy, `home`
    gives that from here on. Nobody else reads or writes the part until it has moved out. All lanes call it."""


@word
def move_out(c, buffer, at, columns, first_row, last_row, first_column, last_column):
    """Brings the part back to where `move_in` took it from. All lanes call it."""


@word
def block(a, row, column, rows, columns):
    """The part of the matrix or block `a` that starts at (row, column), without a copy and without a check."""


@word
def row(a, i):
    """Row i of a matrix or block, as a contiguous vector."""


@word
def gapless(c, a):
    """Whether the rows of block `a` follow on one another in memory, and the backend works faster on them as one."""


@word
def in_place(c, z, y):
    """The row z, or where the backend works faster on a single one, the row y with the numbers of z: for a loop that
    reads element j of the result and then writes y[j]. y is as long as z, and z itself or apart from it; what else the
    loop reads is apart from y, unless y is z."""


@word
def tile_rows(c):
    """The most rows that a tile has."""


@word
def tile_columns(c):
    """The most columns that a tile has."""


@word
def product_tile(c, target):
    """Where the product of a tile is collected before the epilogue that writes it to the block `target`:
    `target` itself where that is in cache, or faster memory of the same shape."""


@word
def scratch(c, like, rows, columns):
    """A tile of this worker's own memory, of the dtype of `like`, of at most tile_rows x tile_columns elements; not
    cleared."""


@word
def matmul_tile(c, a, transpose_a, b, transpose_b, z, accumulate, bias):
    """z = op(a) op(b), or z += with `accumulate`, or each row of z = with the vector `bias` added, where that is not
    empty: not both; op transposes where its flag says so. All lanes of the worker call it, and meet before it returns.
    The order of summation depends on the shapes alone."""


@word
def add_rows(c, a, y):
    """y[j] = the sum of column j of the block `a`, which has at most STRETCH rows for each row of lanes (see
    kernels/summation.py). All lanes of the worker call it, and meet before it returns. The order of summation depends
    on the shape of `a` and on how the lanes are laid out, and on nothing else."""
