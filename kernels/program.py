"""The program: a network, a loss and an optimizer become a table of integers that every executor runs.

A row of the table is one instruction; its columns are named below. A row holds offsets into the buffer and
extents, never a count that depends on the batch, so one program serves the ragged last batch and any number of
steps. A new architecture is new data: nothing is compiled for it.

Barriers are not placed by hand. Each instruction says what it reads and writes and how that is shared out among the
workers (`Access`); a barrier stands before an instruction where a worker would meet what another one wrote.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fusedmlp.kernels.activations import PARAMETERS, Activation, identity
from fusedmlp.kernels.losses import Loss
from fusedmlp.kernels.optimizers import STORE, Update
from fusedmlp.kernels.rules import kind

# The columns of the table. X, W, B, Y and S are blocks of the buffer: where they begin, and the length of a row. Length
# 0 of X, of the truth in B and of the sample weights in W: the rows of the data themselves.
OP = 0  # the instruction
BARRIER = 1  # MEET: the workers meet before it; MEET_OR_LEAVE: and leave if a stop was published
PARTITION = 2  # how it is shared out among the workers
KIND = 3  # the number of its rule
INPUTS = 4  # live columns of X, and rows of W if it lies by input
OUTPUTS = 5  # live columns of Y, and of W if it lies by input
X_AT, X_LENGTH = 6, 7
W_AT, W_LENGTH = 8, 9
B_AT, B_LENGTH = 10, 11  # the bias, or what an instruction adds; length 0: none
Y_AT, Y_LENGTH = 12, 13
S_AT, S_LENGTH = 14, 15  # what the activation saves
KEEP = 16  # 1: S is written
P_AT = 17  # the rule's parameters
STRIDE = 18  # from an element of W or B to its first slot of state, and from slot to slot; from part to part in X
SLOTS = 19  # how many slots the rule keeps
PARTS = 20  # how many partial sums there are of X
MULTIPLE = 21  # columns are shared out in multiples of this, so that no two workers write one line of cache
HOME = 22  # 1: while steps run, each worker alone touches its part of W and of its slots
LIBRARY = 23  # 1: a bare product, which an executor may leave to a library that knows no short batch: it takes all rows
# that a batch may have
FULL = 24  # so many columns of the rows of Y that a short batch lacks are written as zeros, for such products
BY_OUTPUT = 25  # 1: W has a row for each output, and not for each input
COLUMNS = 26

MEET, MEET_OR_LEAVE = 1, 2

# The instructions. Dropout and clipping by norm will be two more: a mask after FORWARD, a sum before STEP.
GATHER = 0  # rows of the data, in the epoch's order, into the buffer; steps that take them as they lie have none
FORWARD = 1  # Y = f(X W + B); partition IN: this worker's partial sums
JOIN = 2  # Y = f(the partial sums of all workers + B)
ACTIVATE = 3  # Y = f(Y), for a rule of scope "row"
LOSS = 4  # the rows' losses into S, and Y = dL/dX, by the truth in B and the sample weights in W
TOTAL = 5  # the sum of the rows' losses in S, out to the caller's array
ACTIVATION_BACKWARD = 6  # Y = Y f'(S)
BACKWARD = 7  # Y = (X Wᵀ) f'(S); partition OUT: this worker's partial sums
JOIN_BACKWARD = 8  # Y = (the partial sums of all workers) f'(S)
UPDATE = 9  # W and B take one step by the gradients Xᵀ Y and the column sums of Y; B alone where INPUTS is 0
STEP = 10  # W and B take one step by the gradients in X and Y
RESULT = 11  # the rows of Y, out to the caller's array

# Above and below W stands by input, (I, O), whichever way it lies.
#
# How an instruction is shared out: OUT: each worker has columns of Y (and of W); IN: each has columns of X (rows of
# W), so that forward leaves partial sums of Y; ROWS: each has rows of the batch. A pair of OUT and IN keeps weights
# and optimizer state with their worker, in its cache, for the whole training. TILES: tile after tile of Y (of W, where
# that is written) goes to worker after worker, for workers by the hundred.
OUT, IN, ROWS, TILES = 0, 1, 2, 3
PARTITIONS = {"out": OUT, "in": IN, "rows": ROWS, "tiles": TILES}

MOST = 2**31 - 1  # rows of a batch, and columns of a layer: libraries of products count them in 32 bits

Axis = Literal["rows", "columns", "inputs", "own", "all"]


@dataclass(frozen=True)
class Network:
    """sizes: inputs, then the width of each layer. activations: one for each layer, the last one the output's."""

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    bias: bool = True

    @property
    def layers(self) -> int:
        return len(self.sizes) - 1

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and shape of each parameter, in the order and under the keys of
        torch.nn.Sequential(Linear, activation, Linear, ...)."""
        for layer in range(self.layers):
            inputs, outputs = self.sizes[layer : layer + 2]
            yield f"{2 * layer}.weight", (outputs, inputs)
            if self.bias:
                yield f"{2 * layer}.bias", (outputs,)


@dataclass(frozen=True)
class Geometry:
    """What a backend says of its memory, in elements: the `alignment` to which blocks are padded, and rows but for
    those of a few weights (`row_length`), which are `gapless` or in whole parts of a line; the `multiple` in which
    columns are shared out; of what distance rows are no multiple apart, as they would be `colliding` in the sets of a
    cache; and whether weights of few outputs lie `by_output`. And how many `workers` there are."""

    alignment: int
    workers: int
    multiple: int = 0
    colliding: int = 0
    gapless: bool = True
    by_output: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiple", self.multiple or self.alignment)

    def padded(self, extent: int) -> int:
        return -(-extent // self.alignment) * self.alignment

    def distance(self, columns: int) -> int:
        """From row to row."""
        padded = self.padded(columns)
        return padded + self.alignment if self.colliding and padded % self.colliding == 0 else padded

    def lies_by_output(self, first: bool, outputs: int, inputs: int) -> bool:
        """Whether a layer's weights have a row for each output. Of few outputs a row for each input would leave a part
        of its only line empty, where it is multiplied and in its gradient (3 % of a step of 64-64-10, AMD EPYC with
        lines of 16 float32). Either way one of two products over them packs them, forward or backward; but of the
        first layer only forward is made, which by input packs nothing."""
        return self.by_output and not first and outputs < self.alignment <= inputs

    def row_length(self, extent: int) -> int:
        """Of weights: the distance for what fills a line of cache. Narrower rows follow on one another, so that an
        optimizer's step takes all as one, and whole lines are shared out all the same, being as many rows as a line has
        elements; or they are a power of two long, so that no row lies in two lines."""
        if extent >= self.alignment:
            return self.distance(extent)
        return extent if self.gapless else min(1 << (extent - 1).bit_length(), self.alignment)


@dataclass(frozen=True)
class Block:
    """A matrix in the buffer: element `at` on, `rows` rows of `length` elements, of which `columns` are live. Of
    weights, whether they lie `by_output`."""

    name: str
    at: int
    rows: int
    columns: int
    length: int
    by_output: bool = False

    @property
    def extent(self) -> int:
        return self.rows * self.length


@dataclass
class Layout:
    """Where everything lies in the buffer. Parameters come first, then slots of state, then the work space, so that
    a program with another optimizer or batch takes over the front as it is."""

    geometry: Geometry
    blocks: dict[str, Block] = field(default_factory=dict)
    length: int = 0

    def add(self, name: str, rows: int, columns: int, length: int = 0, by_output: bool = False) -> Block:
        """In rows of `length`, or of whole lines of cache."""
        made = Block(name, self.length, rows, columns, length or self.geometry.distance(columns), by_output)
        self.blocks[name] = made
        self.length += self.geometry.padded(made.extent)
        return made

    def refer(self, name: str, columns: int) -> Block:
        """Rows of the data or of the result, which take no room here."""
        made = self.blocks[name] = Block(name, 0, 0, columns, 0)
        return made

    def __getitem__(self, name: str) -> Block:
        return self.blocks[name]


@dataclass(frozen=True)
class Access:
    """What an instruction does with a block: whether it writes, and along which axis the workers share it out. "rows"
    are those of a batch, cut alike in each step; rows of weights, where a batch's are met as well, are "inputs"."""

    block: str
    axis: Axis
    writes: bool = False

    def conflicts(self, earlier: "Access") -> bool:
        """Whether a worker may meet here what another did in `earlier`."""
        if self.block != earlier.block or not (self.writes or earlier.writes):
            return False
        return self.axis != earlier.axis or self.axis == "all"


@dataclass(frozen=True, eq=False)
class Program:
    """A table of instructions and the layout of the buffer that it runs over.

    table       int64 (instructions, COLUMNS)
    layout      the blocks by name
    parameters  the blocks of Network.parameters, by their names; a weight's is its transpose, inputs x outputs, unless
                it lies by output
    gradients   the same for the gradients; empty where each lives only until its step is done
    constants   offset in the buffer -> the number that must stand there before a run: the rules' parameters
    carried     elements at the front of the buffer that outlive a run: parameters, then slots of state
    batch       the most rows of a step
    """

    table: np.ndarray
    layout: Layout
    parameters: dict[str, Block]
    gradients: dict[str, Block]
    constants: dict[int, float]
    carried: int
    batch: int


Fields = dict[int, int]


class _Writer:
    """Collects instructions with what they touch, and places the barriers. One worker meets nobody, but leaves where
    others would meet to leave."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._rows: list[Fields] = []
        self._accesses: list[tuple[Access, ...]] = []

    def __call__(self, op: int, fields: Fields, *accesses: Access) -> None:
        self._rows.append({OP: op, MULTIPLE: self._geometry.multiple} | fields)
        self._accesses.append(accesses)

    def table(self) -> np.ndarray:
        table = np.zeros((len(self._rows), COLUMNS), np.int64)
        for number, fields in enumerate(self._rows):
            table[number, list(fields)] = list(fields.values())
            if number and self._rows[number - 1][OP] == LOSS:
                table[number, BARRIER] = MEET_OR_LEAVE  # so that a non-finite loss never reaches the weights
        pending: list[Access] = []
        for _ in range(2) if self._geometry.workers > 1 else ():  # what one step leaves, the next one meets
            for number, touched in enumerate(self._accesses):
                if any(access.conflicts(earlier) for access in touched for earlier in pending):
                    table[number, BARRIER] = max(table[number, BARRIER], MEET)
                if table[number, BARRIER]:
                    pending = []
                pending += touched
        return table


def _shared_out(partition: int) -> tuple[Fields, Axis]:
    """How an instruction that takes element by element is shared out in a layer of that partition: by tiles as the
    layer, so that all lanes of a worker have some of it, or by rows; and along which axis."""
    return ({PARTITION: TILES}, "all") if partition == TILES else ({PARTITION: ROWS}, "rows")


def _shared_by(partition: int, axes: dict[int, Axis]) -> Axis:
    """Along which axis a block is shared out; tiles are along both, and count as everybody's."""
    return axes.get(partition, "all")


def fused_output(network: Network, loss: Loss) -> bool:
    """Whether the loss reads the pre-activation of the output, its activation being part of the loss's formula.
    ValueError where the two do not go together."""
    output = network.activations[-1].name
    if loss.logits is None or output == "identity":
        return False
    if output == loss.logits:
        return True
    raise ValueError(
        f"loss: {loss.name} goes with output {loss.logits!r}, fused, or with output 'identity', whose values it reads "
        f"as logits; got output {output!r}"
    )


def program(
    network: Network,
    geometry: Geometry,
    *,
    batch: int,
    partitions: Sequence[int] = (),
    libraries: Sequence[bool] = (),
    loss: Loss | None = None,
    update: Update | None = None,
    slots: int = 0,
    in_order: bool = False,
) -> Program:
    """The program of a network for at most `batch` rows a step.

    Without loss and `update` it predicts. With a loss alone it leaves the gradients behind the parameters; with an
    `update` alone it takes one step by gradients that are there; with both it trains, each weight gradient living only
    until its step is done. `partitions` holds OUT, IN, ROWS or TILES for each layer. `libraries` says for each layer
    whether its products stand by themselves, for a library to make; then its weight gradient is written out. `slots`
    is how many slots of state the buffer carries behind the parameters, at least those of `update`. With `in_order` the
    steps take the rows of the data one after the other, where they lie, and nothing is gathered. ValueError for a batch
    beyond MOST, and for libraries in order: they read the rows that a short batch lacks.
    """
    if batch > MOST:
        raise ValueError(f"batch: expected at most {MOST} rows, got {batch}")
    partitions = tuple(partitions) or (OUT,) * network.layers
    libraries = tuple(libraries) or (False,) * network.layers
    if in_order and any(libraries):
        raise ValueError("in_order: expected no products by libraries, which read all rows that a batch may have")
    return _Composer(network, geometry, batch, partitions, libraries, in_order).compose(loss, update, slots)


class _Composer:
    """Lays out the buffer and writes the instructions, layer by layer."""

    def __init__(
        self,
        network: Network,
        geometry: Geometry,
        batch: int,
        partitions: tuple[int, ...],
        libraries: tuple[bool, ...],
        in_order: bool,
    ) -> None:
        self.network, self.geometry, self.batch, self.libraries = network, geometry, batch, libraries
        self.in_order = in_order
        # One worker has everything already.
        self.partitions = tuple(p if geometry.workers > 1 or p == TILES else OUT for p in partitions)
        self.shapes = dict(network.parameters())
        self.layout = Layout(geometry)
        self.write = _Writer(geometry)
        self.stride = 0  # from an element of a parameter to its first slot of state
        self.constants: dict[int, float] = {}
        self.constants_at: list[int] = []  # by layer: where its activation's parameters lie
        self.saved: dict[int, tuple[Activation, Block]] = {}  # by layer, from 1: its activation, and what that saves

    def compose(self, loss: Loss | None, update: Update | None, slots: int) -> Program:
        parameters = {name: self.add_parameter(name) for name in self.shapes}
        self.stride = self.layout.length
        self.layout.length += self.stride * slots
        carried = self.layout.length
        gradients: dict[str, Block] = {}
        if (loss is None) != (update is None):
            gradients = {name: self.add_parameter(name, "d ") for name in self.shapes}
        if loss is not None:
            self.forward(loss)
            self.backward(loss, update or STORE, "" if update else "d ")
        elif update is not None:
            for layer in range(self.network.layers):
                gradient = self.weights(layer, "d ")
                places = {"X": gradient["W"]} | ({"Y": gradient["B"]} if self.network.bias else {})
                self.step(layer, update, self.weights(layer), places)
        else:
            self.forward(None)
            self.result()
        return Program(self.write.table(), self.layout, parameters, gradients, self.constants, carried, self.batch)

    def add_parameter(self, name: str, prefix: str = "") -> Block:
        """Room for one of Network.parameters, or for what is called by a prefix to its name."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return self.layout.add(prefix + name, 1, *shape, self.geometry.row_length(*shape))
        by_output = self.geometry.lies_by_output(name == "0.weight", *shape)
        rows, columns = shape if by_output else reversed(shape)
        return self.layout.add(prefix + name, rows, columns, self.geometry.row_length(columns), by_output)

    def add_constants(self, parameters: tuple[tuple[str, float], ...]) -> int:
        made = self.layout.add(f"constants {len(self.constants)}", 1, PARAMETERS)
        values = [value for _, value in parameters] + [0.0] * PARAMETERS
        self.constants.update({made.at + i: value for i, value in enumerate(values[:PARAMETERS])})
        return made.at

    def blocks(self, **blocks: Block) -> Fields:
        """The columns X, W, B, Y, S of the blocks given by those names."""
        places = {"X": X_AT, "W": W_AT, "B": B_AT, "Y": Y_AT, "S": S_AT}
        fields: Fields = {}
        for letter, given in blocks.items():
            fields |= {places[letter]: given.at, places[letter] + 1: given.length}
            if letter == "W":
                fields[BY_OUTPUT] = int(given.by_output)
        return fields

    def extents(self, layer: int) -> Fields:
        inputs, outputs = self.network.sizes[layer : layer + 2]
        return {INPUTS: inputs, OUTPUTS: outputs}

    def weights(self, layer: int, prefix: str = "") -> dict[str, Block]:
        return {"W": self.layout[f"{prefix}{2 * layer}.weight"]} | self.bias(layer, prefix)

    def bias(self, layer: int, prefix: str = "") -> dict[str, Block]:
        return {"B": self.layout[f"{prefix}{2 * layer}.bias"]} if self.network.bias else {}

    def rule(self, layer: int, activation: Activation) -> Fields:
        return {KIND: kind("activations", activation), P_AT: self.constants_at[layer]}

    def parts(self, width: int) -> Block:
        """Room for every worker's partial sums, a worker's below the other's; all layers share it."""
        needed = self.layout.blocks.get("parts")
        length = self.geometry.distance(width)
        if needed is None:
            widest = max(self.network.sizes[1:])  # no partial sums are taken of the inputs
            needed = self.layout.add("parts", self.geometry.workers * self.batch, widest)
        return Block("parts", needed.at, self.batch, width, length)

    def forward(self, loss: Loss | None) -> None:
        """The batch, then each layer. Layer l reads block "a l" and writes "a l+1"; what its rule saves is "z l+1"."""
        network = self.network
        self.constants_at = [self.add_constants(a.parameters) for a in network.activations]
        if self.in_order:
            for name, columns in (("a 0", network.sizes[0]), ("truth", network.sizes[-1]), ("sample weights", 1)):
                self.layout.refer(name, columns)
        else:
            self.gather(loss)
        for layer, activation in enumerate(network.activations):
            last = layer == network.layers - 1
            reads_logits = last and loss is not None and fused_output(network, loss)
            self.forward_layer(layer, identity if reads_logits else activation, keep=loss is not None)

    def gather(self, loss: Loss | None) -> None:
        network, layout = self.network, self.layout
        a = layout.add("a 0", self.batch, network.sizes[0])
        gathered = {"Y": a}
        shared, axis = _shared_out(self.partitions[0])
        writes = [Access("a 0", axis, True)]
        if loss is not None:
            gathered |= {
                "B": layout.add("truth", self.batch, network.sizes[-1]),
                "W": layout.add("sample weights", 1, self.batch),
            }
            writes.append(Access("truth", axis, True))  # and with it labels and sample weights
        extents = {INPUTS: network.sizes[0], OUTPUTS: network.sizes[-1]}
        self.write(GATHER, shared | extents | self.filled(a) | self.blocks(**gathered), *writes)

    def forward_layer(self, layer: int, activation: Activation, keep: bool) -> None:
        name, outputs = f"a {layer + 1}", self.network.sizes[layer + 1]
        result = self.in_order and not keep and layer == self.network.layers - 1
        y = self.layout.refer(name, outputs) if result else self.layout.add(name, self.batch, outputs)
        keep = keep and activation.saves == "preactivation"
        saved = self.layout.add(f"z {layer + 1}", self.batch, outputs) if keep else y
        self.saved[layer + 1] = (activation, saved)
        element = identity if activation.scope == "row" else activation
        epilogue = self.rule(layer, element) | {KEEP: int(keep)} | self.filled(y) | self.extents(layer)
        if self.libraries[layer]:
            self.forward_library(layer, epilogue, y, saved)
        elif self.partitions[layer] == IN:
            self.forward_parts(layer, epilogue, y, saved)
        else:
            self.forward_whole(layer, epilogue, y, saved)
        if activation.scope == "row":
            self.write(
                ACTIVATE,
                self.rule(layer, activation) | {PARTITION: ROWS} | self.extents(layer) | self.blocks(Y=y),
                Access(y.name, "rows", True),
            )

    def forward_whole(self, layer: int, epilogue: Fields, y: Block, saved: Block) -> None:
        """Each worker makes its columns (OUT), rows (ROWS) or tiles (TILES) of the layer."""
        x, given, partition = self.layout[f"a {layer}"], self.weights(layer), self.partitions[layer]
        mine = _shared_by(partition, {OUT: "columns", ROWS: "rows"})
        self.write(
            FORWARD,
            epilogue | {PARTITION: partition} | self.blocks(X=x, Y=y, S=saved, **given),
            Access(x.name, "rows" if partition == ROWS else "all"),
            Access(given["W"].name, "columns" if partition == OUT else "all"),
            *(Access(bias.name, "columns" if partition == OUT else "all") for bias in self.bias(layer).values()),
            Access(y.name, mine, True),
            Access(saved.name, mine, True),
        )

    def forward_library(self, layer: int, epilogue: Fields, y: Block, saved: Block) -> None:
        """The product, to which a library adds the bias, and then the rest, if there is more to do, as if it were the
        one partial sum."""
        x, weight, bias = self.layout[f"a {layer}"], self.weights(layer)["W"], self.bias(layer)
        self.write(
            FORWARD,
            self.product(layer) | self.blocks(X=x, W=weight, Y=saved, S=saved, **bias),
            Access(x.name, "all"),
            Access(weight.name, "all"),
            *(Access(block.name, "all") for block in bias.values()),
            Access(saved.name, "all", True),
        )
        if epilogue[KIND] != kind("activations", identity) or saved is not y:
            shared, axis = _shared_out(self.partitions[layer])
            self.write(
                JOIN,
                epilogue | shared | {PARTS: 1} | self.blocks(X=saved, Y=y, S=saved),
                Access(y.name, axis, True),
                Access(saved.name, axis, True),
            )

    def filled(self, y: Block) -> Fields:
        return {FULL: y.columns} if any(self.libraries) else {}

    def product(self, layer: int) -> Fields:
        """What a product for a library has in every place: no epilogue but a bias."""
        none = {KIND: kind("activations", identity), P_AT: self.constants_at[layer]}
        return none | {PARTITION: TILES, LIBRARY: 1} | self.extents(layer)

    def forward_parts(self, layer: int, epilogue: Fields, y: Block, saved: Block) -> None:
        """Each worker sums over its columns of X (IN), then these partial sums of all rows are joined."""
        x, weight = self.layout[f"a {layer}"], self.weights(layer)["W"]
        part = self.parts(y.columns)
        self.write(
            FORWARD,
            self.partial(layer, IN, part) | self.blocks(X=x, W=weight, Y=part, S=part),
            Access(x.name, "columns"),
            Access(weight.name, "inputs"),
            Access("parts", "own", True),
        )
        self.write(
            JOIN,
            epilogue | self.exchange(part) | self.blocks(X=part, Y=y, S=saved, **self.bias(layer)),
            Access("parts", "all", True),
            *(Access(bias.name, "all") for bias in self.bias(layer).values()),
            Access(y.name, "rows", True),
            Access(saved.name, "rows", True),
        )

    def exchange(self, part: Block) -> Fields:
        return {PARTITION: ROWS, STRIDE: part.extent, PARTS: self.geometry.workers}

    def partial(self, layer: int, partition: int, part: Block) -> Fields:
        """What the two instructions that leave partial sums have in common."""
        return (
            {PARTITION: partition, KIND: kind("activations", identity), P_AT: self.constants_at[layer]}
            | self.extents(layer)
            | {STRIDE: part.extent}
        )

    def result(self) -> None:
        y = self.layout[f"a {self.network.layers}"]
        if not y.length:  # it was written where it is wanted
            return
        shared, axis = _shared_out(self.partitions[-1])
        self.write(RESULT, shared | {OUTPUTS: self.network.sizes[-1]} | self.blocks(Y=y), Access(y.name, axis))

    def backward(self, loss: Loss, update: Update, prefix: str) -> None:
        """LOSS, then down the layers: block "d l" is the gradient with respect to z of layer l (from 1). A layer's
        step comes after the gradient below it was taken, which needs the old weights."""
        network, layout = self.network, self.layout
        top = network.layers
        a, d = layout[f"a {top}"], layout.add(f"d {top}", self.batch, network.sizes[-1])
        losses = layout.add("losses", 1, self.batch)
        rule = {KIND: kind("losses", loss), P_AT: self.add_constants(loss.parameters)}
        self.write(
            LOSS,
            rule
            | {PARTITION: ROWS, OUTPUTS: network.sizes[-1]}
            | self.filled(d)
            | self.blocks(X=a, Y=d, S=losses, B=layout["truth"], W=layout["sample weights"]),
            Access(a.name, "rows"),
            Access("truth", "rows"),
            Access(d.name, "rows", True),
            Access("losses", "rows", True),
        )
        self.write(TOTAL, self.blocks(S=losses), Access("losses", "all"))
        if not fused_output(network, loss):
            self.through_activation(top, d)
        for layer in reversed(range(top)):
            if layer > 0:
                self.backward_layer(layer)
            self.update_layer(layer, update, prefix)

    def through_activation(self, layer: int, d: Block) -> None:
        """d = d f'(saved), where that could not be the epilogue of a product."""
        activation, saved = self.saved[layer]
        if activation.name != "identity":
            shared, axis = _shared_out(ROWS if activation.scope == "row" else self.partitions[layer - 1])
            self.write(
                ACTIVATION_BACKWARD,
                self.rule(layer - 1, activation) | shared | {OUTPUTS: d.columns} | self.blocks(Y=d, S=saved),
                Access(saved.name, axis),
                Access(d.name, axis, True),
            )

    def backward_layer(self, layer: int) -> None:
        inputs = self.network.sizes[layer]
        dz = self.layout[f"d {layer + 1}"]
        dx = self.layout.add(f"d {layer}", self.batch, inputs)
        activation, saved = self.saved[layer]
        by_row = activation.scope == "row"
        epilogue = self.rule(layer - 1, identity if by_row else activation) | self.filled(dx) | self.extents(layer)
        given, partition = self.weights(layer)["W"], self.partitions[layer]
        if self.libraries[layer]:
            self.write(
                BACKWARD,
                self.product(layer) | self.blocks(X=dz, W=given, Y=dx, S=dx),
                Access(dz.name, "all"),
                Access(given.name, "all"),
                Access(dx.name, "all", True),
            )
            self.through_activation(layer, dx)
            return
        if partition == OUT and self.geometry.workers > 1:
            part = self.parts(inputs)
            self.write(
                BACKWARD,
                self.partial(layer, OUT, part) | self.blocks(X=dz, W=given, Y=part, S=part),
                Access(dz.name, "columns"),
                Access(given.name, "columns"),
                Access("parts", "own", True),
            )
            self.write(
                JOIN_BACKWARD,
                epilogue | self.exchange(part) | self.blocks(X=part, Y=dx, S=saved),
                Access("parts", "all", True),
                Access(saved.name, "rows"),
                Access(dx.name, "rows", True),
            )
        else:
            partition = IN if partition == OUT else partition
            mine = _shared_by(partition, {IN: "columns", ROWS: "rows"})
            self.write(
                BACKWARD,
                epilogue | {PARTITION: partition} | self.blocks(X=dz, W=given, Y=dx, S=saved),
                Access(dz.name, "rows" if partition == ROWS else "all"),
                Access(given.name, "inputs" if partition == IN else "all"),
                Access(saved.name, mine),
                Access(dx.name, mine, True),
            )
        if by_row:
            self.through_activation(layer, dx)

    def update_layer(self, layer: int, update: Update, prefix: str) -> None:
        """Partition ROWS leaves the weights to nobody: they are shared out by inputs, or where these are too few by
        outputs."""
        inputs, outputs = self.network.sizes[layer : layer + 2]
        partition = self.partitions[layer]
        if partition == ROWS:
            partition = IN if inputs >= self.geometry.workers * self.geometry.multiple else OUT
        x, dz = self.layout[f"a {layer}"], self.layout[f"d {layer + 1}"]
        given = self.weights(layer, prefix)
        if self.libraries[layer]:
            self.update_library(layer, update, prefix)
            if self.network.bias:  # which is left
                self.write(
                    UPDATE,
                    self.state(update) | {OUTPUTS: outputs} | self.blocks(X=dz, Y=dz, B=given["B"]),
                    Access(dz.name, "columns"),
                    Access(given["B"].name, "columns", True),
                )
            return
        mine = _shared_by(partition, {OUT: "columns", IN: "inputs"})
        stays = int(self.partitions[layer] in (OUT, IN) and not prefix and not given["W"].by_output)
        self.write(
            UPDATE,
            self.state(update)
            | {PARTITION: partition, HOME: stays}
            | self.extents(layer)
            | self.blocks(X=x, Y=dz, **given),
            Access(x.name, "columns" if partition == IN else "all"),
            Access(dz.name, "columns" if partition == OUT else "all"),
            Access(given["W"].name, mine, True),
            *(Access(bias.name, "columns", True) for bias in self.bias(layer, prefix).values()),
        )

    def update_library(self, layer: int, update: Update, prefix: str) -> None:
        """The weight's gradient as a bare product, and the step that reads it, unless the gradient itself is wanted."""
        x, dz = self.layout[f"a {layer}"], self.layout[f"d {layer + 1}"]
        gradient = self.weights(layer, prefix)["W"] if prefix else self.add_parameter(f"{2 * layer}.weight", "d ")
        self.write(
            UPDATE,
            self.product(layer) | self.state(STORE) | self.blocks(X=x, Y=dz, W=gradient),
            Access(x.name, "all"),
            Access(dz.name, "all"),
            Access(gradient.name, "all", True),
        )
        if not prefix:
            self.step(layer, update, {"W": self.weights(layer)["W"]}, {"X": gradient})

    def step(self, layer: int, update: Update, given: dict[str, Block], gradients: dict[str, Block]) -> None:
        shared, axis = _shared_out(self.partitions[layer])
        self.write(
            STEP,
            self.state(update) | shared | self.extents(layer) | self.blocks(**gradients, **given),
            *(Access(gradient.name, axis) for gradient in gradients.values()),
            *(Access(made.name, axis, True) for made in given.values()),
        )

    def state(self, update: Update) -> Fields:
        """Which rule steps, and where its slots are."""
        return {KIND: kind("updates", update), STRIDE: self.stride, SLOTS: update.slots}
