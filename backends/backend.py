"""A backend: the single kernels as callers see them, and the executor that trains.

What a kernel checks, allocates and returns stands here, once for all backends; a subclass says where arrays live and
how a body of kernels/ is entered.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from fusedmlp.backends import arrays
from fusedmlp.backends.arrays import Array, Memory
from fusedmlp.backends.call import Call
from fusedmlp.backends.feed import Data, Feed
from fusedmlp.backends.plan import Plan, serial_plan
from fusedmlp.backends.scratch import Scratch
from fusedmlp.kernels import activations, losses, program
from fusedmlp.kernels.activations import PARAMETERS, Activation
from fusedmlp.kernels.losses import REDUCTIONS, Loss, reduction_factor
from fusedmlp.kernels.optimizers import SLOTS, Hyperparameters, Update
from fusedmlp.kernels.rules import kind

Backprop = Callable[[Array], tuple[Array, Array, Array | None]]

IDENTITY = kind("activations", activations.identity)
STEPS_AHEAD = 64  # for which an optimizer's scalars are worked out at once
LINE = 64  # bytes in a line of cache, to which rows are padded and shares are cut


class State:
    """What an optimizer keeps of one parameter: the number of steps taken, and its rule's slots, which start as 0. Both
    may be set: slots as many as the rule's, of the parameter's shape and dtype, contiguous and writable; TypeError or
    ValueError for others."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, rule: Update, slots: tuple[Array, ...]) -> None:
        self.steps = 0
        self.shape, self.dtype, self.rule, self.slots = shape, dtype, rule, slots
        self._ahead: tuple[Hyperparameters | None, int, list[tuple[float, ...]]] = None, 0, []

    @property
    def slots(self) -> tuple[Array, ...]:
        """In the parameter's shape: views, so what is written to them is the state's."""
        return tuple(vector.reshape(self.shape) for vector in self.vectors[: self.rule.slots])

    @slots.setter
    def slots(self, slots: tuple[Array, ...]) -> None:
        if not isinstance(slots, tuple) or not all(map(arrays.is_array, slots)):
            raise TypeError(f"slots: expected a tuple of arrays, got {slots!r:.60}")
        if len(slots) != self.rule.slots:
            raise ValueError(f"slots: expected {self.rule.slots} for the rule {self.rule.name}, got {len(slots)}")
        for slot in slots:
            if slot.dtype != self.dtype:
                raise TypeError(f"slots: expected {self.dtype}, got {slot.dtype}")
            if slot.shape != self.shape:
                raise arrays.misshapen("slots", slot, self.shape, "that of the parameter")
            if not slot.flags.c_contiguous or not getattr(slot.flags, "carray", True):
                raise ValueError("slots: expected contiguous, aligned and writable arrays")
        # As the kernel takes them: in the place of one that the rule does not keep, and never touches, stands another.
        vectors = tuple(slot.ravel() for slot in slots)
        self.vectors = vectors + vectors[:1] * (SLOTS - len(vectors))

    def __repr__(self) -> str:
        return f"<state of {self.rule.name} for {self.dtype} {self.shape} after {self.steps} steps>"

    def __copy__(self) -> "State":
        """With slots of its own, as copy.deepcopy makes it: two that shared them would each take steps of the other."""
        return copy.deepcopy(self)

    def scalars(self, optimizer: Hyperparameters) -> tuple[Any, ...]:
        """Those of the next step by `optimizer`. NumPy takes as long for one as for many, so steps ahead are worked out
        with it."""
        whose, first, table = self._ahead
        if whose is not optimizer or not 0 <= self.steps - first < len(table):
            if self.steps < 0:
                raise ValueError(f"state: expected steps of at least 0, got {self.steps}")
            ahead = optimizer.table(self.steps + 1, STEPS_AHEAD, self.dtype)
            first, table = self.steps, [tuple(row) for row in ahead.tolist()]
            self._ahead = optimizer, first, table
        return table[self.steps - first]


class Backend:
    """One way to run the kernels. Every kernel takes and returns arrays of the caller's library.

    name             by which `get_backend` finds it
    memory           where its arrays live
    call_seconds     about how long one call of a training or a prediction runs: what lies between calls waits for it
    multiple_bytes   of a row, in which columns are shared out, so that no two workers write one line of cache
    gapless          whether narrow rows of weights follow on one another
    by_output        whether weights of few outputs have a row for each output; then the word lies_by_output must see it
    colliding_bytes  of which no distance of a program's rows is a multiple, for the sake of a cache's sets; 0: of any
    panel            bytes of scratch in which dense_backward keeps rows of dz
    predict_rows     rows of a prediction's step where nobody asks for a batch size: its activations stay in cache
    launches         the ways of a plan (backends/plan.py) in which it can run a call
    most_workers     that a plan may ask for; None: any number
    in_place         whether steps over rows in their order read them where they lie
    precisions       of products of float32 arrays, beside their own
    """

    name = ""
    call_seconds = 0.2
    multiple_bytes = LINE
    gapless = True
    by_output = False
    colliding_bytes = 0
    panel = 1 << 20
    predict_rows = 256
    launches: tuple[str, ...] = ("steps",)
    precisions: tuple[str, ...] = ()
    most_workers: int | None = None
    in_place = True
    threads = 1  # the most workers of a call

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self._scratch = Scratch(self.memory)
        self._empty: dict[np.dtype, Array] = {}

    @property
    def device(self) -> str:
        """Where its arrays live: "cpu" or "cuda"."""
        return self.memory.device

    # What a subclass says.

    def workers_for(self, flops: float) -> int:
        """How many workers a call of so many floating-point operations is worth."""
        return 1

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> int:
        """Runs a body of kernels/single.py, or the interpreter ("run"), and returns what its first worker returned."""
        raise NotImplementedError

    def launch_interruptible(
        self, body: str, dtype: np.dtype, workers: int, *arguments: Any
    ) -> tuple[int, BaseException | None]:
        """As `launch`, on other threads than the caller's, which waits. An exception that reaches it (Ctrl-C) asks the
        workers to stop, and is returned beside the result when they are out."""
        raise NotImplementedError

    def place(self, data: Data) -> Data:
        """The data in the backend's memory, if they have room there; else as they are."""
        return data

    def feed(self, data: Data, batch: int) -> Feed:
        """What brings the data to calls of steps of `batch` rows."""
        return Feed(self.memory, data)

    def run(self, call: Call) -> BaseException | None:
        """Runs the steps of a call to their end. Gives the exception that reached the caller meanwhile (Ctrl-C); one
        that it raises came before the first step."""
        self.launch("run", call.dtype, call.plan.workers, *self.arguments(call))
        return None

    def arguments(self, call: Call) -> tuple[Any, ...]:
        """A call as `launch` takes it: what the interpreter takes, or a form in which that is sooner handed over."""
        return call.arguments()

    def again(self, call: Call) -> Callable[[Array, Array], None]:
        """What runs a call again and again, over an x and a result of the same shapes that are given to it each time.
        It raises the exception that reached the caller meanwhile."""

        def ask(x: Array, result: Array) -> None:
            reached = self.run(replace(call, x=x, result=result))
            if reached is not None:
                raise reached

        return ask

    def run_interruptible(
        self, call: Call, meanwhile: Callable[[], None], finished: list[int]
    ) -> tuple[int, BaseException | None]:
        """How many steps of a call were finished, and the exception that reached the caller, who waits; `meanwhile` may
        be called while the steps run. `finished` may get that number as soon as it is known: it counts where an
        exception comes on the way from there."""
        return self.launch_interruptible("run", call.dtype, call.plan.workers, *self.arguments(call))

    def forget(self, program: program.Program) -> None:
        """Frees what was kept for more calls of a program over the same arrays."""

    def describe(self) -> str:
        """A line: the backend and what it runs on."""
        return f"{self.name} on {self.device}"

    def facts(self) -> dict[str, str]:
        """What a report of this machine should say of the backend, by name."""
        return {}

    def scratch_bytes(self) -> int:
        """Bytes of scratch held for the next call, all threads together."""
        return self._scratch.nbytes

    # Dense layers.

    def dense_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        activation: str | Activation = "identity",
        *,
        out: Array | None = None,
        return_saved: bool = False,
        precision: str | None = None,
    ) -> Any:
        """y = f(x weightᵀ + bias), bias and activation applied to each tile of the product while it is in cache.

        x            (B, I), or (I,) for one row, which gives a 1-D y
        weight       (O, I), as torch.nn.Linear's
        bias         (O,) or None
        activation   a name, or a record of fusedmlp.activations
        out          (B, O), written and returned: contiguous, of x's dtype, apart from every input
        return_saved returns (y, saved); `saved` is what dense_backward needs: y itself, or z = x weightᵀ + bias
        precision    of the product: None or the arrays' dtype, "float32" or "float64"; for float32 on cuda also "tf32"
                     or "bf16": then cuBLASLt makes the product, whatever its size, and may round both factors to 10 or
                     7 bits of mantissa. Its sums, bias and activation stay float32

        All arrays are float32, or all float64. Allocates y, and z where it is saved; nothing else. Raises TypeError
        for a wrong type, dtype or device and ValueError for a wrong shape or value, before anything is written.
        """
        rule, memory, given = activations.get(activation), self.memory, x
        x = memory.floats("x", x)
        precision = self.precision(precision, x.dtype)
        x_rows = arrays.rows("x", x, "(B, I)")
        w, b = self._layer(x_rows, x.shape, weight, bias)
        shape = (len(w),) if x.ndim == 1 else (len(x), len(w))
        if out is None:
            y = memory.empty(shape, x.dtype)
        else:
            y = memory.writable("out", out, x.dtype, "x")
            if y.shape != shape:
                raise arrays.misshapen("out", y, shape, "that of y")
            memory.check_apart("out", y, {"x": given, "weight": weight, "bias": bias})
        keep = return_saved and rule.saves == "preactivation"
        saved = memory.empty(shape, x.dtype) if keep else y
        if y.size:
            b = self._none(x.dtype) if b is None else b
            y_rows = arrays.rows("y", y, "(B, O)")
            saved_rows = arrays.rows("saved", saved, "(B, O)") if keep else y_rows
            self._forward(x_rows, w, b, y_rows, saved_rows, keep, rule, precision)
        give = arrays.giver(given)
        if out is None:
            returned = give(y)
        else:
            returned = out
            memory.hand_back(out)
        if not return_saved:
            return returned
        return returned, (give(saved) if keep else returned)

    def dense_backward(
        self,
        dy: Array,
        x: Array,
        weight: Array,
        saved: Array,
        activation: str | Activation,
        *,
        need_dx: bool = True,
        precision: str | None = None,
    ) -> tuple[Array | None, Array, Array]:
        """(dx, dweight, dbias) of a dense layer, given dy, the gradient with respect to its output.

        dy     (B, O), or (O,) with a 1-D x
        x      (B, I), weight (O, I): what dense_forward was given
        saved  (B, O): what dense_forward(..., return_saved=True) gave
        need_dx=False skips dx and returns None in its place
        precision  as dense_forward's, of the products that make dx and dweight; dz and dbias are never rounded

        dz = dy f'(z), dx = dz weight, dweight = dzᵀ x, dbias = the column sums of dz. dz is never held at full size.
        Raises as dense_forward does.
        """
        rule = activations.get(activation)
        x = self.memory.floats("x", x)
        precision = self.precision(precision, x.dtype)
        given, dy = dy, self.memory.floats("dy", dy, x.dtype, "x")
        saved = self.memory.floats("saved", saved, x.dtype, "x")
        x_rows = arrays.rows("x", x, "(B, I)")
        weight, _ = self._layer(x_rows, x.shape, weight, None)
        (batch, inputs), outputs = x_rows.shape, len(weight)
        shape = (outputs,) if x.ndim == 1 else (batch, outputs)
        if dy.shape != shape or saved.shape != shape:
            name, array = ("dy", dy) if dy.shape != shape else ("saved", saved)
            raise arrays.misshapen(name, array, shape, f"that of y for x {x.shape} and weight {weight.shape}")
        empty = self.memory.empty
        dx = empty((batch if need_dx else 0, inputs), x.dtype)
        dweight, dbias = empty(weight.shape, x.dtype), empty(outputs, x.dtype)
        if batch and outputs:
            count = min(batch, max(1, self.panel // (outputs * x.itemsize)))
            panel = self._scratch("panel", x.dtype, count * outputs)
            dy_rows, saved_rows = arrays.rows("dy", dy, "(B, O)"), arrays.rows("saved", saved, "(B, O)")
            self._backward(dy_rows, x_rows, weight, saved_rows, panel, dx, dweight, dbias, rule, precision)
        else:
            for gradient in (dx, dweight, dbias):
                gradient[...] = 0
        give = arrays.giver(given)
        return (give(dx.reshape(x.shape)) if need_dx else None), give(dweight), give(dbias)

    def dense(
        self, x: Array, weight: Array, bias: Array | None, activation: str | Activation, *, precision: str | None = None
    ) -> tuple[Array, Backprop]:
        """(y, backprop): y as dense_forward gives it, and backprop(dy) -> (dx, dweight, dbias), dbias None without a
        bias. Arguments, shapes, dtypes and errors are those of dense_forward, and of dense_backward for dy; precision
        is that of both. backprop reads x, weight and, where the activation's derivative is taken from it, y as they are
        when it is called."""
        y, saved = self.dense_forward(x, weight, bias, activation, return_saved=True, precision=precision)

        def backprop(dy: Array) -> tuple[Array, Array, Array | None]:
            dx, dweight, dbias = self.dense_backward(dy, x, weight, saved, activation, precision=precision)
            return dx, dweight, None if bias is None else dbias

        return y, backprop

    def _forward(
        self,
        x: Array,
        weight: Array,
        bias: Array,
        y: Array,
        saved: Array,
        keep: bool,
        rule: Activation,
        precision: str,
    ) -> None:
        """y, and with `keep` saved, of arrays that fit each other; an empty bias is none."""
        dtype, workers = x.dtype, self.workers_for(2.0 * y.size * x.shape[1])
        number, p, multiple = kind("activations", rule), values(rule, dtype), line_of(dtype)
        by_row = rule.scope == "row"
        self.launch("forward", dtype, workers, x, weight, bias, y, saved, keep, number, by_row, IDENTITY, p, multiple)

    def _backward(
        self,
        dy: Array,
        x: Array,
        weight: Array,
        saved: Array,
        panel: Array,
        dx: Array,
        dweight: Array,
        dbias: Array,
        rule: Activation,
        precision: str,
    ) -> None:
        """dweight, dbias, and unless it is empty dx, through as many rows of dz at a time as `panel` has room for."""
        dtype, workers = x.dtype, self.workers_for(2.0 * dy.size * x.shape[1] * (2 if dx.size else 1))
        number, p, multiple = kind("activations", rule), values(rule, dtype), line_of(dtype)
        self.launch(
            "backward", dtype, workers, dy, x, weight, saved, panel, dx, dweight, dbias, number, IDENTITY, p, multiple
        )

    def _layer(
        self, x_rows: Array, x_shape: tuple[int, ...], weight: Array, bias: Array | None
    ) -> tuple[Array, Array | None]:
        """weight and bias, fitting x and each other."""
        w = self.memory.floats("weight", weight, x_rows.dtype, "x")
        if w.ndim != 2:
            raise _no_matrix("weight", w, "(O, I)")
        outputs, inputs = w.shape
        if inputs != x_rows.shape[1]:
            raise ValueError(
                f"x and weight: expected shapes (B, I) and (O, I) with one I, got x {x_shape} and weight {w.shape}"
            )
        if inputs > program.MOST or outputs > program.MOST:
            raise ValueError(f"weight: expected at most {program.MOST} inputs and outputs, got {w.shape}")
        if bias is None:
            return w, None
        b = self.memory.floats("bias", bias, x_rows.dtype, "x")
        if b.shape != (outputs,):
            raise arrays.misshapen("bias", b, (outputs,), f"(O,) of weight {w.shape}")
        return w, b

    # Activations alone.

    def activate(self, z: Array, activation: str | Activation) -> Array:
        """f(z) for z (B, C), or (C,) for one row, float32 or float64, as a new array of its shape and dtype.

        activation  a name, or a record of fusedmlp.activations

        TypeError for a wrong type, dtype or device, ValueError for another shape or an unknown activation.
        """
        rule = activations.get(activation)
        given, z = z, self.memory.floats("z", z)
        z_rows = arrays.rows("z", z, "(B, C)")
        y = self.memory.empty(z_rows.shape, z.dtype)
        if y.size:
            workers, number = self.workers_for(ELEMENTWISE * y.size), kind("activations", rule)
            self.launch("apply", z.dtype, workers, z_rows, y, number, values(rule, z.dtype))
        return arrays.giver(given)(y if z.ndim == 2 else y[0])

    def activation_backward(self, dy: Array, saved: Array, activation: str | Activation) -> Array:
        """dz = dy f'(z) as a new array of dy's shape, (B, C) or (C,), and dtype, float32 or float64.

        saved       y or z, as the rule's `saves` says: of dy's shape and dtype
        activation  a name, or a record of fusedmlp.activations

        TypeError for a wrong type, dtype or device, ValueError for a wrong shape or an unknown activation.
        """
        rule = activations.get(activation)
        given, dy = dy, self.memory.floats("dy", dy)
        saved = self.memory.floats("saved", saved, dy.dtype, "dy")
        if saved.shape != dy.shape:
            raise arrays.misshapen("saved", saved, dy.shape, "that of dy")
        dy_rows = arrays.rows("dy", dy, "(B, C)")
        dz = self.memory.empty(dy_rows.shape, dy.dtype)
        if dz.size:
            workers, number = self.workers_for(ELEMENTWISE * dz.size), kind("activations", rule)
            saved_rows, p = arrays.rows("saved", saved, "(B, C)"), values(rule, dy.dtype)
            self.launch("apply_backward", dy.dtype, workers, dy_rows, saved_rows, dz, number, p)
        return arrays.giver(given)(dz if dy.ndim == 2 else dz[0])

    def softmax(self, z: Array) -> Array:
        """exp(z) / sum(exp(z)) of each row of z (B, C), or of one row (C,); finite for every finite z.
        dtypes and errors as in `activate`."""
        return self.activate(z, activations.softmax)

    def log_softmax(self, z: Array) -> Array:
        """z - log(sum(exp(z))) of each row of z (B, C), or of one row (C,); finite for every
        finite z. dtypes and errors as in `activate`."""
        return self.activate(z, activations.log_softmax)

    def precision(self, asked: str | None, dtype: np.dtype) -> str:
        """The precision of products of arrays of a dtype, by name: as asked for, None being the dtype itself. TypeError
        for what is no name, ValueError for a precision that there is not here for this dtype."""
        own = arrays.FLOATS[dtype]
        if asked is None:
            return own
        there_are = (own, *(self.precisions if dtype == np.float32 else ()))
        if isinstance(asked, str) and asked in there_are:
            return asked
        expected = f"None or {' or '.join(map(repr, there_are))} for {dtype} arrays on {self.name}"
        advice = "" if "tf32" in there_are else "; 'tf32' and 'bf16' are for float32 arrays on cuda"
        error = ValueError if isinstance(asked, str) else TypeError
        raise error(f"precision: expected {expected}, got {asked!r}{advice}")

    # Losses: (prediction, target) -> (loss, gradient with respect to the prediction), in one pass.

    def mse(
        self, prediction: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """(a - t)², as torch.nn.MSELoss: (loss, gradient).

        prediction, target  (B, O), both float32 or both float64
        reduction           "mean" over all elements, "sum", or "none" for the loss of each element
        sample_weight       (B,) of the same dtype: multiplies each row; the mean is then over the weights' sum times O
        returns             new arrays of that dtype: loss 0-d, or (B, O) for "none"; gradient (B, O), of the sum for
                            "none". A mean of no rows is NaN

        TypeError for a wrong type, dtype or device, ValueError for a wrong shape or an unknown reduction.
        """
        return self._element_loss(losses.mse, "prediction", prediction, target, reduction, sample_weight)

    def half_mse(
        self, prediction: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """½ (a - t)²; with reduction "sum" its gradient is a - t. Shapes, reductions and errors as in `mse`."""
        return self._element_loss(losses.half_mse, "prediction", prediction, target, reduction, sample_weight)

    def mae(
        self, prediction: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """|a - t|, as torch.nn.L1Loss; its gradient at 0 is 0. Shapes, reductions and errors as in `mse`."""
        return self._element_loss(losses.mae, "prediction", prediction, target, reduction, sample_weight)

    def huber(
        self,
        prediction: Array,
        target: Array,
        *,
        reduction: str = "mean",
        sample_weight: Array | None = None,
        delta: float = 1.0,
    ) -> tuple[Array, Array]:
        """½ d² for d = |a - t| up to `delta`, then delta (d - ½ delta), as torch.nn.HuberLoss. Shapes,
        reductions and errors as in `mse`; `delta` must be above 0."""
        return self._element_loss(losses.huber(delta=delta), "prediction", prediction, target, reduction, sample_weight)

    def binary_cross_entropy_with_logits(
        self, logits: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """-t log(a) - (1 - t) log(1 - a) with a = sigmoid(logits), as torch.nn.BCEWithLogitsLoss; finite for every
        finite logit. target (B, O) holds probabilities. Shapes, reductions and errors as in `mse`."""
        return self._element_loss(losses.binary_cross_entropy, "logits", logits, target, reduction, sample_weight)

    def cross_entropy(
        self, logits: Array, target: Array, *, reduction: str = "mean", sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """-sum(t log(softmax(logits))) of each row, as torch.nn.CrossEntropyLoss: (loss, gradient).

        logits         (B, C), float32 or float64
        target         class indices (B,) of any integer dtype, or probability rows (B, C) of the logits' dtype
        reduction      "mean" over the rows, "sum", or "none" for the loss of each row
        sample_weight  (B,) of the logits' dtype: multiplies each row; the mean is then over the weights' sum
        returns        new arrays of that dtype: loss 0-d, or (B,) for "none"; gradient (B, C). A mean of no rows is NaN

        TypeError for a wrong type, dtype or device, ValueError for a wrong shape, an unknown reduction, or an index
        outside 0 .. C - 1.
        """
        given, a = logits, self.memory.floats("logits", logits)
        if a.ndim != 2:
            raise _no_matrix("logits", a, "(B, C)")
        known = self.memory.view("target", target, "int64")
        if known.ndim == 2 and known.dtype.kind == "f":
            truth, labels = self._truth(known, a, "logits"), self._none(_INT64)
        else:
            truth = a[:0]
            rows, classes = a.shape
            check_labels("target", known, rows, classes, a.dtype)
            labels = self.memory.settled(known, _INT64)
        loss, gradient = self._loss(losses.cross_entropy, given, a, truth, labels, reduction, sample_weight)
        # An index that is no class makes the kernel's loss NaN: to look for one only then takes less than beforehand.
        if len(labels) and self.memory.checks and (reduction == "none" or not a.size or math.isnan(loss)):
            check_classes("target", known, a.shape[1])
        return loss, gradient

    def _element_loss(
        self, rule: Loss, name: str, prediction: Array, target: Array, reduction: str, sample_weight: Array | None
    ) -> tuple[Array, Array]:
        given, a = prediction, self.memory.floats(name, prediction)
        if a.ndim != 2:
            raise _no_matrix(name, a, "(B, O)")
        truth = self._truth(target, a, name)
        return self._loss(rule, given, a, truth, self._none(_INT64), reduction, sample_weight)

    def _truth(self, target: Array, a: Array, name: str) -> Array:
        """The target as an array like `a`, the argument `name`."""
        truth = self.memory.floats("target", target, a.dtype, name)
        if truth.shape != a.shape:
            raise arrays.misshapen("target", truth, a.shape, f"that of {name}")
        return truth

    def _loss(
        self,
        rule: Loss,
        given: Array,
        a: np.ndarray,
        truth: np.ndarray,
        labels: np.ndarray,
        reduction: str,
        sample_weight: Array | None,
    ) -> tuple[Array, Array]:
        if not isinstance(reduction, str) or reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        rows, columns = a.shape
        weights = self._none(a.dtype)
        if sample_weight is not None:
            weights = self.memory.floats("sample_weight", sample_weight, a.dtype, "the first argument")
            if weights.shape != (rows,):
                raise arrays.misshapen("sample_weight", weights, (rows,), "one for each row")
        give, empty, dtype = arrays.giver(given), self.memory.empty, a.dtype
        gradient, total, each = empty(a.shape, dtype), empty(1, dtype), reduction == "none"
        per_row = columns if each and rule.scope == "element" else 1
        kept = empty(rows * per_row, dtype) if each else self._scratch("losses", dtype, rows)
        losses = kept.reshape(rows, per_row)
        by_mass = reduction == "mean" and sample_weight is not None  # their sum is taken where they are
        if a.size:
            workers, number, p = self.workers_for(ELEMENTWISE * a.size), kind("losses", rule), values(rule, dtype)
            factor = reduction_factor(rule, reduction, 1.0 if by_mass else float(rows), columns)
            self.launch(
                "loss", dtype, workers, a, truth, labels, gradient, losses, total, weights, factor, by_mass, number, p
            )
        else:
            total[...] = np.nan if reduction == "mean" else 0.0
        if each:
            return give(kept if rule.scope == "row" else losses), give(gradient)
        return give(total.reshape(())), give(gradient)

    def _none(self, dtype: np.dtype) -> Array:
        """The array that stands for what is not given."""
        if dtype not in self._empty:
            self._empty[dtype] = self.memory.empty(0, dtype)
        return self._empty[dtype]

    # Optimizers.

    def state(self, optimizer: Hyperparameters, parameter: Array) -> State:
        """What optimizer.init(parameter) gives."""
        view = self.memory.view("parameter", parameter)
        rule, dtype = optimizer.update_rule(), _float_dtype("parameter", view)
        slots = tuple(self.memory.empty(view.shape, dtype) for _ in range(rule.slots))
        for slot in slots:
            self.memory.clear(slot)
        return State(view.shape, dtype, rule, slots)

    def update_inplace(self, optimizer: Hyperparameters, parameter: Array, gradient: Array, state: State) -> None:
        """One step of `optimizer`: writes `parameter` and `state`.

        parameter  of any shape, float32 or float64, contiguous and writable
        gradient   of the same shape and dtype
        state      what optimizer.init(parameter) gave

        TypeError for a wrong type or dtype; ValueError for a wrong shape, a parameter that is read-only or not
        contiguous, or the state of another parameter or rule; nothing is written before.
        """
        w = parameter
        if not self.memory.ready(parameter):
            dtype = _float_dtype("parameter", self.memory.view("parameter", parameter))
            w = self.memory.writable("parameter", parameter, dtype, "it")
        g = self.memory.floats("gradient", gradient, w.dtype, "parameter")
        if g.shape != w.shape:
            raise arrays.misshapen("gradient", g, w.shape, "that of parameter")
        rule = optimizer.update_rule()
        if not isinstance(state, State):
            raise TypeError(f"state: expected what {type(optimizer).__name__}.init gave, got {type(state).__name__}")
        if state.rule is not rule and state.rule != rule:
            raise ValueError(f"state: expected one made for the update rule {rule.name}, got one for {state.rule.name}")
        if state.shape != w.shape or state.dtype != w.dtype:
            raise ValueError(
                f"state: expected one made by init for {w.dtype} {w.shape}, got one for {state.dtype} {state.shape}"
            )
        self.memory.check_apart("parameter", w, {"gradient": gradient})
        scalars = state.scalars(optimizer)
        if w.size:
            dtype, workers = w.dtype, self.workers_for(ELEMENTWISE * w.size)
            vector = w.ravel()  # a view, as w is contiguous
            s0, s1, s2 = state.vectors or (vector,) * SLOTS
            number, multiple = kind("updates", rule), line_of(dtype)
            self.launch("step", dtype, workers, g.ravel(), vector, s0, s1, s2, number, scalars, multiple)
        state.steps += 1
        self.memory.hand_back(parameter)

    # Training.

    def executor(
        self,
        network: program.Network,
        dtype: str = "float32",
        plan: Plan | None = None,
        precision: str | None = None,
    ) -> Any:
        """What holds and trains one network's parameters on this backend. `precision` is that of the products which
        the plan leaves to a library; all else is computed in the dtype. ValueError for a plan or a precision that it
        does not have."""
        from fusedmlp.backends.executor import Executor

        if plan is not None and plan.launch not in self.launches:
            raise ValueError(f"plan: expected launch {' or '.join(self.launches)} on {self.name}, got {plan.launch!r}")
        if plan is not None and plan.workers > (self.most_workers or plan.workers):
            raise ValueError(f"plan: expected at most {self.most_workers} workers on {self.name}, got {plan.workers}")
        return Executor(self, network, np.dtype(dtype), plan, self.precision(precision, np.dtype(dtype)))

    def geometry(self, dtype: np.dtype, plan: Plan) -> program.Geometry:
        """How programs for a plan are laid out in the backend's memory."""
        multiple, colliding = (size // dtype.itemsize for size in (self.multiple_bytes, self.colliding_bytes))
        return program.Geometry(line_of(dtype), plan.workers, multiple, colliding, self.gapless, self.by_output)

    def plan(self, network: program.Network, dtype: np.dtype, batch: int, precision: str = "") -> Plan:
        """How training steps of `batch` rows are shared out among workers. `precision` is that of products which a
        library makes, as in a Call (backends/call.py)."""
        return serial_plan(network)

    def step_plan(self, network: program.Network) -> Plan:
        """How a step by gradients that are there is shared out."""
        return serial_plan(network)

    def prediction_plan(self, network: program.Network, dtype: np.dtype, rows: int) -> Plan:
        """How a prediction of so many rows is. Nothing is exchanged: a row is one worker's, whatever the layers."""
        weights = sum(inputs * outputs for inputs, outputs in pairwise(network.sizes))
        return Plan(self.workers_for(2.0 * rows * weights), ("rows",) * network.layers)


ELEMENTWISE = 20.0  # floating-point operations that one element of a loss, activation or update counts for
_INT64 = np.dtype(np.int64)


_NO_VALUES = {dtype: (dtype.type(0),) * PARAMETERS for dtype in arrays.FLOATS}


def values(rule: Activation | Loss, dtype: np.dtype) -> tuple[Any, ...]:
    """A rule's parameters as scalars of the compute dtype."""
    if not rule.parameters:
        return _NO_VALUES[dtype]
    values = [value for _, value in rule.parameters] + [0.0] * PARAMETERS
    return tuple(dtype.type(value) for value in values[:PARAMETERS])


def line_of(dtype: np.dtype) -> int:
    """How many elements a line of cache has."""
    return LINE // dtype.itemsize


def _no_matrix(name: str, array: Array, letters: str) -> ValueError:
    return ValueError(f"{name}: expected shape {letters}, got {array.shape}")


def _float_dtype(name: str, array: np.ndarray) -> np.dtype:
    if array.dtype not in arrays.FLOATS:
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}; pass {name}.astype(np.float32)")
    return array.dtype


def check_labels(name: str, indices: Array, rows: int, classes: int, dtype: np.dtype) -> None:
    """TypeError or ValueError unless they are integers, one for each row; probabilities would be of the dtype."""
    if indices.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: expected integer class indices (B,) or probability rows (B, C), got {indices.dtype} "
            f"{indices.shape}; pass {name}.astype(np.int64)"
        )
    if indices.shape != (rows,):
        hint = f"; pass {name}.ravel()" if indices.shape == (rows, 1) else ""
        if indices.shape == (rows, classes):
            hint = f"; probability rows are floats: pass {name}.astype(np.{dtype})"
        raise ValueError(f"{name}: expected shape ({rows},), one index for each row, got {indices.shape}{hint}")


def check_classes(name: str, indices: np.ndarray, classes: int) -> None:
    """ValueError for an index outside 0 .. classes - 1."""
    # Where the extremes are is known in a third of the time that min and max of a few indices take.
    for index in (indices[indices.argmin()], indices[indices.argmax()]) if indices.size else ():
        if not 0 <= int(index) < classes:
            hint = f"; classes counted from 1: pass {name} - 1" if index == classes and indices.min() > 0 else ""
            hint = "; one output for two classes goes with binary cross-entropy" if classes == 1 else hint
            raise ValueError(
                f"{name}: expected class indices from 0 to {classes - 1} ({classes} classes), got {index}{hint}"
            )
