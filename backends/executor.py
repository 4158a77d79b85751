"""The executor: one network's parameters on one backend, and the runs that train it, ask it or step it.

It composes programs, lays out the buffer, and cuts an epoch into calls of about a fifth of a second (on a device a
twentieth), between which progress, callbacks and Ctrl-C live. How a call is run is the backend's.
"""

import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusedmlp.backends.arrays import Array
from fusedmlp.backends.backend import LINE, Backend
from fusedmlp.backends.errors import NonFinite
from fusedmlp.backends.plan import Plan, serial_plan
from fusedmlp.kernels.activations import identity
from fusedmlp.kernels.losses import Loss
from fusedmlp.kernels.optimizers import SCALARS, Hyperparameters, Update
from fusedmlp.kernels.program import Block, Geometry, Network, Program, program

PROGRAMS = 64  # how many are kept; they are small and quick to make
_INT64 = np.dtype(np.int64)
PREDICT_ROWS = 256  # rows of a step where nobody asks for a batch size: its activations stay in cache


@dataclass(frozen=True)
class Data:
    """What a run reads, contiguous and of the compute dtype: x (N, I), truth (N, O) or class labels int64 (N,), and
    sample weights (N,) or None."""

    x: np.ndarray
    truth: np.ndarray | None = None
    labels: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclass
class _OptimizerState:
    """One optimizer's steps taken for this network, and its slots while another optimizer's lie in the buffer. It ends
    with the optimizer, which it does not keep alive."""

    optimizer: "weakref.ref[Hyperparameters]"
    rule: Update
    steps: int = 0
    slots: np.ndarray | None = None


class Executor:
    """Holds the parameters in one buffer of the compute dtype and runs programs over it.

    The buffer's front, parameters and then the optimizer's slots, outlives a change of program; the work space behind
    it is laid out anew for another batch, loss or optimizer.
    """

    def __init__(self, backend: Backend, network: Network, dtype: np.dtype, plan: Plan | None) -> None:
        if plan is not None and len(plan.partitions) != network.layers:
            raise ValueError(f"plan: expected a partition for each of {network.layers} layers, got {plan.partitions}")
        self.backend, self.network, self.dtype = backend, network, dtype
        self._memory = backend.memory
        self._given_plan = plan
        self._plans: dict[tuple[int, int], Plan] = {}  # by the most threads, and by rows
        self._programs: dict[Any, Program] = {}
        self._current: _OptimizerState | None = None  # whose slots lie in the buffer
        self._states: list[_OptimizerState] = []
        self._seconds_per_step: dict[Any, float] = {}
        first = self._program(serial_plan(network), 1)
        self._parameters, self._front = first.parameters, first.carried
        self._buffer = self._memory.aligned(self._front, dtype)
        self._buffer[:] = 0
        self._entered: Program | None = None  # whose constants are in the buffer

    # Parameters.

    def read(self) -> dict[str, np.ndarray]:
        """A copy of every parameter under its name, weights (O, I) and biases (O,)."""
        return {name: self._copy(block, name) for name, block in self._parameters.items()}

    def write(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Overwrites the parameters given, which must have the right names and shapes."""
        for name, value in parameters.items():
            self._write(self._parameters[name], value)

    def _write(self, block: Block, value: np.ndarray) -> None:
        self._matrix(block)[...] = self._memory.to_device(np.asarray(value, self.dtype))

    def _matrix(self, block: Block) -> Array:
        return self._buffer[block.at : block.at + block.extent].reshape(block.rows, block.length)[:, : block.columns]

    def _copy(self, block: Block, name: str) -> np.ndarray:
        copied = self._memory.to_host(self._matrix(block).copy())
        return copied[0] if name.endswith("bias") else copied

    # Runs.

    def place(self, data: Data) -> Data:
        """The data in the backend's memory, as `train` and `gradients` take them."""
        place = self._memory.to_device
        rest = [None if part is None else place(part) for part in (data.truth, data.labels, data.weights)]
        return Data(place(data.x), *rest)

    def predict(
        self, x: np.ndarray, batch_size: int | None = None, *, logits: bool = False, plan: Plan | None = None
    ) -> np.ndarray:
        """The network's output (N, O) for x (N, I), `batch_size` rows at a time; with `logits` without the activation
        of the output."""
        if not len(x):
            return np.empty((0, self.network.sizes[-1]), self.dtype)
        network = self.network
        if logits:
            network = replace(network, activations=(*network.activations[:-1], identity))
        batch = min(batch_size or PREDICT_ROWS, 1 << (len(x) - 1).bit_length())  # few programs serve all sizes
        steps = -(-len(x) // batch)
        workers = self.backend.workers_for(2.0 * len(x) * sum(block.extent for block in self._parameters.values()))
        plan = plan or Plan(workers, ("rows",) * network.layers)
        run = self._enter(self._program(plan, batch, network=network))
        data, order = self.place(Data(x)), self._memory.to_device(np.arange(len(x), dtype=np.int64))
        result, scalars = self._memory.empty((len(x), network.sizes[-1]), self.dtype), self._scalars(np.zeros(steps))
        for first, last in self._calls((batch, plan.workers), steps):
            arguments, _ = self._arguments(run, data, scalars[first:last], order, result=result, first=first)
            self.backend.launch("run", self.dtype, plan.workers, *arguments)
        return self._memory.to_host(result)

    def gradients(self, data: Data, loss: Loss, factor: float) -> tuple[float, dict[str, np.ndarray]]:
        """(loss, gradients by parameter) of all rows as one batch, each row's loss multiplied by `factor`."""
        rows = len(data.x)
        plan = self.plan(rows, inherited=True)
        run = self._enter(self._program(plan, rows, loss))
        order = self._memory.to_device(np.arange(rows, dtype=np.int64))
        arguments, losses = self._arguments(run, self.place(data), self._scalars(np.array([factor])), order)
        self.backend.launch("run", self.dtype, plan.workers, *arguments)
        return float(losses[0]), {name: self._copy(block, name) for name, block in run.gradients.items()}

    def apply(self, gradients: Mapping[str, np.ndarray], optimizer: Hyperparameters) -> None:
        """One optimizer step by the gradients given, one for each parameter."""
        state = self._state(optimizer)
        run = self._enter(self._program(serial_plan(self.network), 1, None, optimizer))
        for name, value in gradients.items():
            self._write(run.gradients[name], value)
        scalars = self._scalars(np.zeros(1), optimizer, state.steps)
        nothing = Data(self._memory.empty((1, self.network.sizes[0]), self.dtype))
        arguments, _ = self._arguments(run, nothing, scalars, self._memory.to_device(np.zeros(1, np.int64)))
        self.backend.launch("run", self.dtype, 1, *arguments)
        state.steps += 1

    def train(
        self,
        data: Data,
        order: np.ndarray,
        *,
        loss: Loss,
        optimizer: Hyperparameters,
        batch_size: int,
        factors: np.ndarray,
    ) -> Iterator[np.ndarray]:
        """One epoch: steps over the rows of `order`, `batch_size` at a time, the last batch as short as it comes.

        factors  float64 (steps,): what each row's loss and gradient of a step are multiplied by
        yields   float64 losses of the steps that each call finished
        raises   NonFinite where a step's loss is not finite, the parameters being those before that step; or the
                 exception that reached the caller (Ctrl-C), after the yield of what was finished
        """
        state, data, order = self._state(optimizer), self.place(data), self._memory.to_device(order)
        batch = min(batch_size, len(order))
        plan = self.plan(batch)
        for first, last in self._calls((batch, loss, state.rule), len(factors)):
            run = self._enter(self._program(plan, batch, loss, optimizer))
            scalars = self._scalars(factors[first:last], optimizer, state.steps)
            arguments, losses = self._arguments(run, data, scalars, order, first=first, guarded=True)
            done, reached = self.backend.launch_interruptible("run", self.dtype, plan.workers, *arguments)
            state.steps += done
            if done:
                yield self._memory.to_host(losses)[:done]
            if reached is not None:
                raise reached
            if done < last - first:
                raise NonFinite(first + done)

    def describe(self) -> str:
        """The backend, and the plan of each batch size that was used."""
        lines = [self.backend.describe()]
        if self._given_plan is not None:
            lines.append(f"plan as given: {self._given_plan}")
        lines += [f"batches of {rows}: {plan}" for (_, rows), plan in sorted(self._plans.items())]
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
            self._plans[threads, planned] = self.backend.plan(self.network, planned)
        return self._plans[threads, planned]

    # Within.

    def _calls(self, key: Any, steps: int) -> Iterator[tuple[int, int]]:
        """(first, last) of calls that each take about the backend's call_seconds; before anything was timed under this
        key, one step. The body of the loop over them is what is timed."""
        first = 0
        while first < steps:
            last = min(steps, first + self._steps_of_a_call(key))
            start = time.perf_counter()
            yield first, last
            self._seconds_per_step[key] = (time.perf_counter() - start) / (last - first)
            first = last

    def _steps_of_a_call(self, key: Any) -> int:
        longest = self.backend.call_seconds
        return max(1, int(longest / max(self._seconds_per_step.get(key, longest), 1e-7)))

    def _scalars(
        self, factors: np.ndarray, optimizer: Hyperparameters | None = None, steps_taken: int = 0
    ) -> np.ndarray:
        """The table of a call: each step's scalars, and the factor of its loss. ValueError where one is beyond the
        range of the dtype."""
        table = np.zeros((len(factors), SCALARS + 1), self.dtype)
        if optimizer is not None:
            table[:, :SCALARS] = optimizer.table(steps_taken + 1, len(factors), self.dtype)
        table[:, SCALARS] = factors
        least = np.finfo(self.dtype).tiny
        if not np.isfinite(table[:, SCALARS]).all() or (table[factors != 0, SCALARS] < least).any():
            raise ValueError(
                f"sample_weight: expected weights whose sums fit {self.dtype}; they make factors of the loss from "
                f"{factors.min()} to {factors.max()}"
            )
        return table

    def _program(
        self,
        plan: Plan,
        batch: int,
        loss: Loss | None = None,
        optimizer: Hyperparameters | None = None,
        network: Network | None = None,
    ) -> Program:
        update = None if optimizer is None else optimizer.update_rule()
        slots = 0 if self._current is None else self._current.rule.slots
        key = (network, plan, batch, loss, update, slots)
        if key not in self._programs:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            made = program(
                network or self.network,
                Geometry(LINE // self.dtype.itemsize, plan.workers),
                batch=batch,
                partitions=plan.codes(),
                loss=loss,
                update=update,
                slots=slots,
            )
            self._programs[key] = replace(made, table=self._memory.to_device(made.table))
        return self._programs[key]

    def _enter(self, run: Program) -> Program:
        """Makes room for the program behind what the buffer carries."""
        self._grow(run.layout.length)
        if run is not self._entered:
            self._entered = None
            for at, value in run.constants.items():
                self._buffer[at] = value
            self._entered = run
        return run

    def _grow(self, length: int) -> None:
        if len(self._buffer) < length:
            larger = self._memory.aligned(length, self.dtype)
            self._entered = None
            carried = self._carried()
            larger[:carried] = self._buffer[:carried]
            self._buffer = larger

    def _carried(self) -> int:
        slots = 0 if self._current is None else self._current.rule.slots
        return self._front * (1 + slots)

    def _state(self, optimizer: Hyperparameters) -> _OptimizerState:
        """The optimizer's state for this network, its slots now in the buffer. Optimizers are told apart by identity:
        each object has a state of its own."""
        self._states = [known for known in self._states if known.optimizer() is not None]
        state = next((known for known in self._states if known.optimizer() is optimizer), None)
        if state is None:
            state = _OptimizerState(weakref.ref(optimizer), optimizer.update_rule())
            self._states.append(state)
        if state is not self._current:
            if self._current is not None and self._current.optimizer() is not None:
                self._current.slots = self._buffer[self._front : self._carried()].copy()
            self._current = None  # should an exception come now, no slots are taken for another's
            length = self._front * (1 + state.rule.slots)
            self._grow(length)
            self._buffer[self._front : length] = 0 if state.slots is None else state.slots
            self._current = state
            state.slots = None
        return state

    def _arguments(
        self,
        run: Program,
        data: Data,
        scalars: np.ndarray,
        order: Array,
        *,
        result: Array | None = None,
        first: int = 0,
        guarded: bool = False,
    ) -> tuple[tuple[Any, ...], Array]:
        """What the interpreter takes after its context, for a step of each row of `scalars`, from step `first` on; and
        the array of these steps' losses, which is one of them."""
        outputs, empty = self.network.sizes[-1], self._memory.empty
        truth = empty((0, outputs), self.dtype) if data.truth is None else data.truth
        weights = empty(0, self.dtype) if data.weights is None else data.weights
        labels = empty(0, _INT64) if data.labels is None else data.labels
        batch_labels = empty(run.batch if len(labels) else 0, _INT64)
        losses = empty(len(scalars), np.dtype(np.float64))
        result = empty((0, outputs), self.dtype) if result is None else result
        scalars = self._memory.to_device(scalars)
        return (
            *(run.table, self._buffer, data.x, truth, weights, labels, batch_labels, order, scalars, losses, result),
            *(run.batch, first, first + len(scalars), guarded),
        ), losses
