"""The executor: one network's parameters on one backend, and the runs that train it, ask it or step it.

It composes programs, lays out the buffer, and cuts an epoch into calls of about a fifth of a second (on a device a
twentieth), between which progress, callbacks and Ctrl-C live. How a call is run is the backend's.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.call import Call
from fusedmlp.backends.errors import NonFinite, OutOfMemory
from fusedmlp.backends.feed import Data, Feed
from fusedmlp.backends.plan import Plan, serial_plan
from fusedmlp.kernels.activations import identity
from fusedmlp.kernels.losses import Loss
from fusedmlp.kernels.optimizers import SCALARS, Hyperparameters, Update
from fusedmlp.kernels.program import Block, Network, Program, program

PROGRAMS = 64  # how many are kept, and of predictions; they are small and quick to make
EVEN = 16  # of which the rows of a prediction's steps are a multiple, where they share them out evenly
ASKED_AGAIN = 1 << 16  # rows at most of a prediction that is kept
BRIEF = 0.05  # seconds that Ctrl-C may wait
ROOM = 4096  # steps: an epoch of so many has room for all from its first call on, and what lies on a device stays there
_INT64 = np.dtype(np.int64)


def _power_of_two(number: int) -> int:
    """The least from `number` on."""
    return 1 << (number - 1).bit_length()


@dataclass
class _OptimizerState:
    """One optimizer's steps taken for this network, and its slots while another optimizer's lie in the buffer. It ends
    with the optimizer, which it does not keep alive.

    counted  the steps before the last call, and the list that has those of the call as soon as they are done
    """

    optimizer: "weakref.ref[Hyperparameters]"
    rule: Update
    counted: tuple[int, list[int]] = field(default_factory=lambda: (0, []))
    slots: np.ndarray | None = None

    @property
    def steps(self) -> int:
        before, finished = self.counted
        return before + sum(finished)

    def of_next_call(self) -> list[int]:
        """The list for the steps of a call that now begins: they are counted when it has them, whatever exception
        (Ctrl-C) comes then."""
        self.counted = self.steps, []
        return self.counted[1]


@dataclass(frozen=True)
class _Wanted:
    """What a program is for: training steps by a loss and an update rule, gradients without the rule, the rule's step
    without the loss, outputs with neither; over rows `in_order`, or in any."""

    network: Network
    plan: Plan
    batch: int
    loss: Loss | None = None
    update: Update | None = None
    in_order: bool = True


@dataclass(frozen=True)
class _Prediction:
    """ask(x, result) predicts by this call, which lacks the two, for as many rows as before, while its program is
    laid out in its buffer."""

    call: Call
    ask: Callable[[Array, Array], None]


class Executor:
    """Holds the parameters in one buffer of the compute dtype and runs programs over it.

    The buffer's front, parameters and then the optimizer's slots, outlives a change of program; the work space behind
    it is laid out anew for another batch, loss or optimizer.
    """

    def __init__(self, backend: Backend, network: Network, dtype: np.dtype, plan: Plan | None, precision: str) -> None:
        if plan is not None and len(plan.partitions) != network.layers:
            raise ValueError(f"plan: expected a partition for each of {network.layers} layers, got {plan.partitions}")
        self.backend, self.network, self.dtype = backend, network, dtype
        self._memory = backend.memory
        self._given_plan, self._precision = plan, precision
        self._plans: dict[tuple[int, int], Plan] = {}  # by the most threads, and by rows
        self._programs: dict[Any, tuple[Program, Array]] = {}  # with its table in the backend's memory
        self._predictions: dict[Any, _Prediction] = {}
        self._numbers = np.arange(0)  # the order of the rows of predictions
        self._kept: dict[str, Array] = {}  # what calls use one after the other, so that it stays where it is
        self._feed: tuple[Data, int, Feed] | None = None  # of the last epoch, behind its data and batch
        self._room = 1  # steps that scalars and losses have room for
        self._current: _OptimizerState | None = None  # whose slots lie in the buffer
        self._states: list[_OptimizerState] = []
        self._seconds_per_step: dict[Any, float] = {}
        self._timed: set[Any] = set()  # keys of these that were timed over the data at hand
        first, _ = self._program(_Wanted(network, serial_plan(network), 1))
        self._parameters, self._front = first.parameters, first.carried
        self._buffer = self._memory.aligned(self._front, dtype)
        self._memory.clear(self._buffer)
        self._entered: Program | None = None  # whose constants are in the buffer

    # Parameters.

    def read(self) -> dict[str, np.ndarray]:
        """A copy of every parameter under its name, weights (O, I) and biases (O,), in the processor's memory."""
        return {name: self._memory.to_host(self._copy(block, name)) for name, block in self._parameters.items()}

    def write(self, parameters: Mapping[str, Array]) -> None:
        """Overwrites the parameters given, of the right names and shapes, in the backend's memory or not."""
        for name, value in parameters.items():
            self._write(self._parameters[name], name, value)

    def _write(self, block: Block, name: str, value: Array) -> None:
        here = self._memory.holds(value)
        self._view(block, name)[...] = value if here else self._memory.to_device(np.asarray(value, self.dtype))

    def _copy(self, block: Block, name: str) -> Array:
        return self._memory.copied(self._view(block, name))

    def _view(self, block: Block, name: str) -> Array:
        """A parameter in the buffer, in the form that callers know; there most weights lie as their transpose."""
        whole = self._buffer[block.at : block.at + block.extent].reshape(block.rows, block.length)
        live = whole[:, : block.columns]
        if name.endswith("bias"):
            return live[0]
        return live if block.by_output else live.T

    # Runs.

    def place(self, data: Data) -> Data:
        """The data in the backend's memory, if they have room there; `train` takes either."""
        return self.backend.place(data)

    def host_weights(self, data: Data) -> np.ndarray | None:
        """The sample weights in the processor's memory."""
        return None if data.weights is None else self._memory.to_host(data.weights)

    def predict(
        self, x: Array, batch_size: int | None = None, *, logits: bool = False, plan: Plan | None = None
    ) -> Array:
        """The network's output (N, O) for x (N, I), `batch_size` rows at a time, in the backend's memory; with `logits`
        without the activation of the output."""
        rows, backend = len(x), self.backend
        result = self._memory.empty((rows, self.network.sizes[-1]), self.dtype)
        if not rows:
            return result
        asked = rows, batch_size, logits, plan, backend.threads
        known = self._predictions.get(asked)
        if known is not None and known.call.buffer is self._buffer:
            self._lay_out(known.call.program)
            known.ask(x, result)
            return result
        call = self._predict(x, result, batch_size, logits, plan)
        if call is not None:
            if len(self._predictions) >= PROGRAMS:
                self._predictions.clear()
            call = replace(call, x=None, result=None)  # which are the caller's
            self._predictions[asked] = _Prediction(call, backend.again(call))
        return result

    def _predict(self, x: Array, result: Array, batch_size: int | None, logits: bool, plan: Plan | None) -> Call | None:
        """Writes `result`. Gives the call that serves again for other rows, as many: one that took them all, where they
        lie."""
        network = self.network
        if logits:
            network = replace(network, activations=(*network.activations[:-1], identity))
        plan = plan or self.backend.prediction_plan(network, self.dtype, len(x))
        most = batch_size or self.backend.predict_rows
        batch = min(most, _power_of_two(len(x)))  # few programs serve all sizes
        if plan.workers > 1 and "rows" in plan.partitions and batch < len(x):
            # A worker has the same rows of each step, so the last is to be nearly as long.
            evenly = -(-len(x) // -(-len(x) // batch))
            batch = min(most, -(-evenly // EVEN) * EVEN)
        run = self._enter(_Wanted(network, plan, batch))
        with closing(self.backend.feed(Data(x), batch).begin(self._in_order(len(x)))) as feed:
            for first, last in self._calls((batch, plan), -(-len(x) // batch), feed.longest):
                call = self._call(run, plan, feed, np.zeros(last - first), first=first, result=result)
                self._run(call)
                feed.ahead(last)
        whole = call.first == 0 and last == call.steps and len(x) <= ASKED_AGAIN
        return call if whole and call.x is x else None

    def _in_order(self, rows: int) -> np.ndarray:
        """0, 1, 2 and so on. Those of predictions that are kept are parts of one array."""
        if rows > ASKED_AGAIN:
            return np.arange(rows)
        if len(self._numbers) < rows:
            self._numbers = np.arange(_power_of_two(rows))
        return self._numbers[:rows]

    def gradients(self, data: Data, loss: Loss, factor: float) -> tuple[float, dict[str, Array]]:
        """(loss, gradients by parameter, in the backend's memory) of all rows as one batch, each row's loss multiplied
        by `factor`."""
        rows = len(data.x)
        plan = self.plan(rows, inherited=True)
        run = self._enter(_Wanted(self.network, plan, rows, loss))
        with closing(self.backend.feed(data, rows).begin(np.arange(rows))) as feed:
            call = self._call(run, plan, feed, np.array([factor]))
            self._run(call)
        gradients = {name: self._copy(block, name) for name, block in call.program.gradients.items()}
        return float(self._memory.to_host(call.losses)[0]), gradients

    def apply(self, gradients: Mapping[str, Array], optimizer: Hyperparameters) -> None:
        """One optimizer step by the gradients given, one for each parameter."""
        plan = self.backend.step_plan(self.network)
        wanted = _Wanted(self.network, plan, 1, update=optimizer.update_rule())
        state, run = self._state(optimizer, wanted), self._enter(wanted)
        for name, value in gradients.items():
            self._write(run[0].gradients[name], name, value)
        nothing = Data(np.zeros((1, self.network.sizes[0]), self.dtype))
        with closing(self.backend.feed(nothing, 1).begin(np.arange(1))) as feed:
            reached = self.backend.run(self._call(run, plan, feed, np.zeros(1), optimizer, state.steps))
        state.of_next_call().append(1)
        if reached is not None:
            raise reached

    def steps_taken(self, optimizer: Hyperparameters) -> int:
        """By this optimizer object, for this network: all that the parameters have gone through, also where an
        exception ended a call before anybody was told."""
        return next((known.steps for known in self._states if known.optimizer() is optimizer), 0)

    def train(
        self,
        data: Data,
        order: np.ndarray,
        *,
        loss: Loss,
        optimizer: Hyperparameters,
        batch_size: int,
        factors: np.ndarray,
        in_order: bool = False,
    ) -> Iterator[np.ndarray]:
        """One epoch: steps over the rows of `order`, `batch_size` at a time, the last batch as short as it comes.

        factors   float64 (steps,): what each row's loss and gradient of a step are multiplied by
        in_order  whether `order` is that of the rows, 0, 1, 2 and so on, which a backend may then read where they lie
        yields    float64 losses of the steps that each call finished
        raises    NonFinite where a step's loss is not finite, the parameters being those before that step; or the
                  exception that reached the caller (Ctrl-C), after the yield of what was finished
        """
        batch = min(batch_size, len(order))
        plan = self.plan(batch)
        wanted = _Wanted(self.network, plan, batch, loss, optimizer.update_rule(), in_order)
        state = self._state(optimizer, wanted)
        self._room = max(self._room, min(_power_of_two(len(factors)), ROOM))
        with closing(self._feed_of(data, batch).begin(order)) as feed:
            key = batch, loss, state.rule
            for first, last in self._calls(key, len(factors), feed.longest):
                run, rest = self._enter(wanted), (factors[first:last], optimizer, state.steps)
                known = self._seconds_per_step[key] if key in self._timed else BRIEF
                brief = (last - first) * known < BRIEF
                call = self._call(run, plan, feed, *rest, first=first, guarded=True, brief=brief)
                finished = state.of_next_call()
                try:
                    done, reached = self.backend.run_interruptible(call, partial(feed.ahead, last), finished)
                    finished[:] = [done]
                except BaseException as error:
                    if not finished:
                        raise
                    done, reached = finished[0], error
                if done:
                    yield self._memory.to_host(call.losses[:done]).copy()
                if reached is not None:
                    raise reached
                if done < last - first:
                    raise NonFinite(first + done)

    def rest(self) -> None:
        """Frees what was kept for another epoch over the same data, the data's copies on a device among it."""
        self._kept.clear()
        self._predictions.clear()
        self._timed.clear()
        self._feed = None
        self._forget()

    def describe(self) -> str:
        """The backend, and the plan of each batch size that was used."""
        lines = [self.backend.describe()]
        if self._given_plan is not None:
            lines.append(f"plan as given: {self._given_plan}")
        lines += dict.fromkeys(f"batches of {rows}: {plan}" for (_, rows), plan in sorted(self._plans.items()))
        return "\n".join(lines)

    def plan(self, batch: int, inherited: bool = False) -> Plan:
        """How training steps of `batch` rows are shared out: as given, or chosen once for the shape. `inherited` takes
        the plan of the next larger batch that has one: so the short last batch of an epoch does in a loop written by
        hand, as it does in `train`, and both give the same bits."""
        if self._given_plan is not None:
            return self._given_plan
        threads = self.backend.threads
        larger = [rows for limit, rows in self._plans if limit == threads and rows >= batch] if inherited else []
        planned = min(larger, default=batch)
        if (threads, planned) not in self._plans:
            self._plans[threads, planned] = self.backend.plan(self.network, self.dtype, planned, self._precision)
        return self._plans[threads, planned]

    # Within.

    def _feed_of(self, data: Data, batch: int) -> Feed:
        """The feed of the epoch before, if that was over the same data: what it holds stays where it is, which graphs
        on a device count on."""
        if self._feed is None or self._feed[0] is not data or self._feed[1] != batch:
            self._feed = data, batch, self.backend.feed(data, batch)
        return self._feed[2]

    def _run(self, call: Call) -> None:
        reached = self.backend.run(call)
        if reached is not None:
            raise reached

    def _forget(self) -> None:
        for made, _ in self._programs.values():
            self.backend.forget(made)

    def _calls(self, key: Any, steps: int, longest: int) -> Iterator[tuple[int, int]]:
        """(first, last) of calls that each take about the backend's call_seconds; before anything was timed under this
        key, one step. None goes beyond a multiple of `longest`. The body of the loop over them is what is timed."""
        first = 0
        while first < steps:
            last = min(steps, first + self._steps_of_a_call(key), (first // longest + 1) * longest)
            start = time.perf_counter()
            yield first, last
            self._seconds_per_step[key] = (time.perf_counter() - start) / (last - first)
            self._timed.add(key)
            first = last

    def _steps_of_a_call(self, key: Any) -> int:
        longest = self.backend.call_seconds
        return max(1, int(longest / max(self._seconds_per_step.get(key, longest), 1e-7)))

    def _scalars(self, factors: np.ndarray, optimizer: Hyperparameters | None, steps_taken: int) -> np.ndarray:
        """The table of a call: each step's scalars, and the factor of its loss, with room for the longest call.
        ValueError where one is beyond the range of the dtype."""
        steps = len(factors)
        self._room = max(self._room, _power_of_two(steps))
        table = np.zeros((self._room, SCALARS + 1), self.dtype)
        if optimizer is not None:
            table[:steps, :SCALARS] = optimizer.table(steps_taken + 1, steps, self.dtype)
        table[:steps, SCALARS] = factors
        rounded, least = table[:steps, SCALARS], np.finfo(self.dtype).tiny
        if not np.isfinite(rounded).all() or (rounded[factors != 0] < least).any():
            raise ValueError(
                f"sample_weight: expected weights whose sums fit {self.dtype}; they make factors of the loss from "
                f"{factors.min()} to {factors.max()}"
            )
        return table

    def _program(self, wanted: _Wanted) -> tuple[Program, Array]:
        """A program, and its table in the backend's memory; kept."""
        key = wanted, self._slots
        if key not in self._programs:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            made = self._composed(wanted, self._slots)
            self._programs[key] = made, self._memory.to_device(made.table)
        return self._programs[key]

    def _composed(self, wanted: _Wanted, slots: int) -> Program:
        plan = wanted.plan
        return program(
            wanted.network,
            self.backend.geometry(self.dtype, plan),
            batch=wanted.batch,
            partitions=plan.codes(),
            libraries=plan.libraries(),
            loss=wanted.loss,
            update=wanted.update,
            slots=slots,
            in_order=wanted.in_order and self.backend.in_place and not any(plan.libraries()),
        )

    @property
    def _slots(self) -> int:
        """How many slots of state the buffer carries."""
        return 0 if self._current is None else self._current.rule.slots

    def _enter(self, wanted: _Wanted) -> tuple[Program, Array]:
        """The program, for which there is now room behind what the buffer carries, and its table."""
        run, table = self._program(wanted)
        self._make_room(run, wanted, self._slots)
        self._lay_out(run)
        return run, table

    def _lay_out(self, run: Program) -> None:
        """A program that has room in the buffer finds its constants there."""
        if run is not self._entered:
            self._entered = None
            for at, value in run.constants.items():
                self._buffer[at] = value
            self._entered = run

    def _make_room(self, run: Program, wanted: _Wanted, slots: int) -> None:
        try:
            self._grow(run.layout.length)
        except OutOfMemory as error:
            raise OutOfMemory(error.asked, error.free, self._fitting(error.free, wanted, slots)) from None

    def _grow(self, length: int) -> None:
        if len(self._buffer) < length:
            self._predictions.clear()  # which hold the old one
            larger = self._memory.aligned(length, self.dtype)
            self._entered = None
            carried = self._carried()
            larger[:carried] = self._buffer[:carried]
            self._buffer = larger
            self._forget()  # what reads the old one

    def _fitting(self, free: int, wanted: _Wanted, slots: int) -> int:
        """The largest batch below the one wanted whose buffer has room in `free` bytes; 0 if none has."""
        room, batch = free // self.dtype.itemsize, wanted.batch

        def length(rows: int) -> int:
            return self._composed(replace(wanted, batch=rows), slots).layout.length

        if batch == 1 or length(1) > room:
            return 0
        if length(batch - 1) <= room:  # free, but in pieces: a guess
            return batch // 2
        fits, fails = 1, batch - 1
        while fails - fits > 1:
            middle = (fits + fails) // 2
            fits, fails = (middle, fails) if length(middle) <= room else (fits, middle)
        return fits

    def _carried(self) -> int:
        return self._front * (1 + self._slots)

    def _state(self, optimizer: Hyperparameters, wanted: _Wanted) -> _OptimizerState:
        """The optimizer's state for this network, its slots now in the buffer, with room behind them for what is wanted
        next: the buffer grows once, as the old one lies beside the new one while it does. Optimizers are told apart by
        identity: each object has a state of its own."""
        self._states = [known for known in self._states if known.optimizer() is not None]
        state = next((known for known in self._states if known.optimizer() is optimizer), None)
        if state is None:
            state = _OptimizerState(weakref.ref(optimizer), optimizer.update_rule())
            self._states.append(state)
        if state is not self._current:
            if self._current is not None and self._current.optimizer() is not None:
                self._current.slots = self._memory.copied(self._buffer[self._front : self._carried()])
            self._current = None  # should an exception come now, no slots are taken for another's
            self._entered = None  # its constants may lie where slots come
            self._predictions.clear()  # and so may what they write
            length, slots = self._front * (1 + state.rule.slots), state.rule.slots
            self._make_room(self._composed(wanted, slots), wanted, slots)
            self._buffer[self._front : length] = 0 if state.slots is None else state.slots
            self._current = state
            state.slots = None
        return state

    def _call(
        self,
        run: tuple[Program, Array],
        plan: Plan,
        feed: Feed,
        factors: np.ndarray,
        optimizer: Hyperparameters | None = None,
        steps_taken: int = 0,
        *,
        first: int = 0,
        result: Array | None = None,
        guarded: bool = False,
        brief: bool = False,
    ) -> Call:
        """A step for each of `factors`, from step `first` of the feed on; with a `result` they are not read."""
        (made, table), outputs = run, self.network.sizes[-1]
        none, room = (0, outputs), self._room_for
        if result is None:
            made_now = self._scalars(factors, optimizer, steps_taken)
            scalars = self._kept["scalars"] = self._memory.renewed(self._kept.get("scalars"), made_now)
        else:
            scalars = room("no scalars", (0, SCALARS + 1), self.dtype)
        data, order, first = feed.steps(first, first + len(factors))
        none_of_labels = room("no labels", (0,), _INT64)
        return Call(
            program=made,
            plan=plan,
            table=table,
            buffer=self._buffer,
            x=data.x,
            truth=room("no truth", none, self.dtype) if data.truth is None else data.truth,
            sample_weights=room("no weights", (0,), self.dtype) if data.weights is None else data.weights,
            labels=none_of_labels if data.labels is None else data.labels,
            batch_labels=none_of_labels if data.labels is None else room("batch labels", (made.batch,), _INT64),
            order=order,
            scalars=scalars,
            losses=room("losses", (self._room,), np.dtype(np.float64)),
            result=room("no result", none, self.dtype) if result is None else result,
            first=first,
            steps=len(factors),
            guarded=guarded,
            precision=self._precision,
            repeated=guarded,
            brief=brief,
        )

    def _room_for(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """An array that is kept for the next call, not cleared."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != shape:
            kept = self._kept[name] = self._memory.empty(shape, dtype)
        return kept
