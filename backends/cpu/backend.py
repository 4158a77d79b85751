"""The bodies compiled by Numba for the processor, run by one thread or by a gang of them."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit, types

from fusedmlp.backends import entries
from fusedmlp.backends.arrays import Array
from fusedmlp.backends.binder import Binder, entry_around
from fusedmlp.backends.call import Call
from fusedmlp.backends.cpu import blas, compiling, machine, meeting, product, words
from fusedmlp.backends.cpu.borrowing import Borrowed, borrowed
from fusedmlp.backends.cpu.caching import cached
from fusedmlp.backends.cpu.packing import (
    ARRAY,
    NUMBERS,
    Packed,
    bell_of,
    context_of,
    packed,
    packed_context,
    sync_of,
    unpacked,
)
from fusedmlp.backends.cpu.quick import SERIAL_FLOPS, Quick
from fusedmlp.backends.cpu.rates import cache_folder, kept_rates, rates_of
from fusedmlp.backends.cpu.threads import default_threads, most_at_once
from fusedmlp.backends.gang import Gangs
from fusedmlp.backends.plan import WORTHWHILE, Plan, Rates, choose_plan
from fusedmlp.kernels.interpreter import INTERRUPTED
from fusedmlp.kernels.program import Network

# Who makes the product of a tile.
PRODUCTS: dict[str, Any] = {"own": product, "blas": blas}

# The most threads of a call: a plan from another machine may have more than run here at once, and they meet at barriers
# all the same, but a slip of the hand ended in a thousand threads or, for their tiles, out of memory.
MOST_THREADS = 16 * (os.cpu_count() or 1)

# What changes numbers that a caller keeps: an exception (Ctrl-C) between two workers' beginnings must not leave half of
# them changed. Of all others the results are new arrays, or `out=`, and lost with the exception.
ALL_OR_NOTHING = ("step",)

# What of an entry's arguments is the same in one call after the other: packed.
KEPT: dict[str, tuple[str, ...]] = {
    "run": ("table", "buffer", "truth", "sample_weights", "labels", "batch_labels", "order", "scalars", "losses")
}

# What an entry does around a body.
BEFORE = "mode = flush_subnormals(); begin(context[0], bell_of(context))"
AFTER = "end(context[0], context[1], sync_of(context), bell_of(context)); restore_subnormals(mode); return result"

# Those that decide how wide a vector is.
VECTOR_FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512vl", "avx512bf16", "neon", "sve")


class _Own(threading.local):
    """Of each calling thread: entries that it runs by itself, with their context, by body and dtype; these contexts by
    dtype; and those of a gang's calls, with the words by which the workers meet, by their number, the dtype and whether
    they listen. Such are not here while a call has them: a signal's handler may make another meanwhile."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, np.dtype], Callable[..., Any]] = {}
        self.alone: dict[np.dtype, Packed] = {}
        self.shared: dict[tuple[int, np.dtype, bool], tuple[list[Packed], Array]] = {}


class CpuBackend(Quick):
    name = "cpu"
    colliding_bytes = product.COLLIDING
    by_output = True
    panel = 1 << 20
    most_workers = MOST_THREADS

    def __init__(self, products: str | None = None) -> None:
        """`products` says who makes a tile's product, one of PRODUCTS; None: FUSEDMLP_CPU_PRODUCTS, else our own."""
        super().__init__()
        self._products_by = products or os.environ.get("FUSEDMLP_CPU_PRODUCTS") or "own"
        if self._products_by not in PRODUCTS:
            raise ValueError(f"FUSEDMLP_CPU_PRODUCTS: expected one of {', '.join(PRODUCTS)}, got {self._products_by!r}")
        self._products = PRODUCTS[self._products_by]
        self._held = entries.MULTIPLYING if self._products is blas else ()  # while these run, BLAS has one thread
        bound = words.WORDS | {"matmul_tile": self._products.matmul_tile}
        self._binder = Binder(bound, _compile_inner, Path(__file__).parent)
        self._entries: dict[tuple[str, np.dtype], Callable[..., Any]] = {}
        self._compiled: dict[tuple[str, np.dtype], Future[Any]] = {}
        if self._held:
            self.small = 0.0  # a product by BLAS has more to do before it: no call is quick
        self._rates: dict[int, Rates] = {}
        self._threads = _threads_from_environment() or default_threads()
        self._gangs = Gangs()
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        """Locks and threads of this process: in a forked child those that it had are gone, and their bells."""
        self._own = _Own()
        self._most_at_once = most_at_once()
        self._lock = threading.Lock()
        self._measuring = threading.RLock()
        self._hold = blas.Hold()
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="fusedmlp compiler")
        self._compiled = {key: task for key, task in self._compiled.items() if task.done()}

    @property
    def sources(self) -> str:
        """A digest of all that is compiled, and who makes its products."""
        return f"{self._binder.digest}, products {self._products_by}"

    @property
    def threads(self) -> int:
        """The most workers of a call."""
        return self._threads if machine.CAN_YIELD else 1

    @threads.setter
    def threads(self, number: int) -> None:
        self._threads = number
        self._most_at_once = most_at_once()

    @property
    def threads_at_once(self) -> int:
        """Of these, as many as can run at the same time: what is shared out without a plan that was given goes to no
        more, since each would wait for one that does not run (products of 256 x 256 x 256 by 3 threads on 2 processors
        are as slow as by one, AMD EPYC)."""
        return min(self.threads, self._most_at_once)

    def describe(self) -> str:
        vector = numba.core.config.CPU_NAME or _host_name()
        return f"cpu: compiled by Numba {numba.__version__} for {vector}, up to {self.threads_at_once} threads"

    def facts(self) -> dict[str, str]:
        features = numba.core.config.CPU_FEATURES or _host_features()
        measured = kept_rates(self)
        fewer = f", of which {self.threads_at_once} can run at once" if self.threads_at_once < self.threads else ""
        return {
            "threads": f"{self.threads}{fewer} (FUSEDMLP_NUM_THREADS or set_num_threads changes it)",
            "CPU features": " ".join(name for name in VECTOR_FEATURES if f"+{name}" in features.split(",")) or "plain",
            "kernel cache": self._kernel_folder(),
            "measured rates": f"{cache_folder()}: {measured or 'not yet'}",
        }

    def _kernel_folder(self) -> str:
        """Where Numba keeps the entries: beside the file of entry_around, or in the user's cache."""
        try:
            dispatcher = njit(cache=True)(entry_around(entries.body("run")))
        except RuntimeError as error:
            return f"in memory only ({error})"
        return str(dispatcher.stats.cache_path)

    def warm_up(self, dtype: np.dtype) -> None:
        """Everything that a model of that dtype would otherwise wait for."""
        for name in ("run", "loss"):
            self.entry(name, dtype)
        if self.threads_at_once > 1:
            self.rates()

    def rates(self) -> Rates:
        """What this machine does with this number of threads, measured at most once in this process."""
        threads = self.threads_at_once
        with self._measuring:
            if threads not in self._rates:
                self._rates[threads] = rates_of(self)
            return self._rates[threads]

    def workers_for(self, flops: float) -> int:
        threads = self.threads_at_once
        if flops < SERIAL_FLOPS or threads == 1:
            return 1
        rates = self.rates()
        serial = flops / rates.flops
        return threads if serial / rates.scaling + rates.handover < WORTHWHILE * serial else 1

    def plan(self, network: Network, dtype: np.dtype, batch: int, precision: str = "") -> Plan:
        threads = self.threads_at_once
        return choose_plan(network, batch, threads, self.rates() if threads > 1 else None)

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> Any:
        if workers == 1:
            enter = self._own.entries.get((body, dtype)) or self.by_itself(body, dtype)
            if body not in self._held:
                return enter(*arguments)
            with self._hold:
                return enter(*arguments)
        if body in ALL_OR_NOTHING:
            result, reached = self.launch_interruptible(body, dtype, workers, *arguments)
        else:
            result, reached = self._taking_part(body, dtype, workers, arguments)
        if reached is not None:
            raise reached
        return result

    def launch_interruptible(
        self, body: str, dtype: np.dtype, workers: int, *arguments: Any
    ) -> tuple[Any, BaseException | None]:
        return self._by_others(body, dtype, workers, arguments)

    def run_interruptible(
        self, call: Call, meanwhile: Callable[[], None], finished: list[int]
    ) -> tuple[int, BaseException | None]:
        """Steps that are soon done are run by the calling thread: to wake another, and to be woken, takes 0.2 ms."""
        launch = self._taking_part if call.brief else self._by_others
        return launch("run", call.dtype, call.plan.workers, self.arguments(call), finished)

    def _taking_part(
        self, body: str, dtype: np.dtype, workers: int, arguments: tuple[Any, ...], results: list[Any] | None = None
    ) -> tuple[Any, BaseException | None]:
        """A call of which this thread is worker 0."""
        entry, gang = self.entry(body, dtype), self._gangs(workers)
        with self._holding(body), self._company(workers, dtype, gang.bell) as (contexts, sync):

            def seen_out() -> bool:
                return bool(sync[meeting.LEFT] + 1 == workers)

            return gang.run_along(entry, contexts, arguments, _abandoning(sync), seen_out, results)

    def _by_others(
        self, body: str, dtype: np.dtype, workers: int, arguments: tuple[Any, ...], results: list[Any] | None = None
    ) -> tuple[Any, BaseException | None]:
        """A call of which this thread is no worker."""
        entry, gang = self.entry(body, dtype), self._gangs(workers)
        with self._holding(body), self._company(workers, dtype, _NO_BELL) as (contexts, sync):

            def interrupt() -> None:
                sync[meeting.REQUEST] = INTERRUPTED

            return gang.run(entry, contexts, arguments, interrupt, _abandoning(sync), results)

    def _holding(self, body: str) -> AbstractContextManager[None]:
        """Around a body whose entry is there, and with it the library that makes its products."""
        return self._hold if body in self._held else nullcontext()

    def again(self, call: Call) -> Callable[[Array, Array], None]:
        """On this thread alone what stays the same is taken out of the call but once."""
        if call.plan.workers > 1 or "run" in self._held:
            return super().again(call)
        key, own, by_itself = ("run", call.dtype), self._own, self.by_itself
        kept, _, _, batch, first, last, guarded = self.arguments(call)

        def ask(x: Array, result: Array) -> None:
            entry = own.entries.get(key) or by_itself(*key)
            entry(kept, x, result, batch, first, last, guarded)

        return ask

    def by_itself(self, body: str, dtype: np.dtype) -> Callable[..., Any]:
        """An entry on this thread alone. None of these calls is asked to stop, so all that one leaves in `sync` for the
        next is the barrier's count."""
        own = self._own
        found = own.entries.get((body, dtype))
        if found is None:
            if dtype not in own.alone:
                (own.alone[dtype],), _ = self._contexts(1, dtype, _NO_BELL)
            found = own.entries[body, dtype] = partial(self.entry(body, dtype), own.alone[dtype])
        return found

    def arguments(self, call: Call) -> tuple[Any, ...]:
        given = dict(zip(entries.parameters("run"), call.arguments(), strict=True))
        return packed(*(given.pop(name) for name in KEPT["run"])), *given.values()

    @contextmanager
    def _company(self, workers: int, dtype: np.dtype, bell: Array) -> Iterator[tuple[list[Packed], Array]]:
        """Contexts of a gang's call, and the words by which its workers meet: kept for this thread's next one."""
        kept, key = self._own.shared, (workers, dtype, len(bell) > 0)
        contexts, sync = kept.pop(key) if key in kept else self._contexts(workers, dtype, bell)
        sync[:] = 0
        try:
            yield contexts, sync
        finally:
            kept[key] = contexts, sync

    def _contexts(self, workers: int, dtype: np.dtype, bell: Array) -> tuple[list[Packed], Array]:
        """Of so many workers, each with scratch of its own, and the words by which they meet."""
        sync = self.memory.aligned(meeting.SYNC_LENGTH, _INT64)
        sync[:] = 0
        length = self._tile_length(dtype)
        tiles = self.memory.aligned(length * workers, dtype).reshape(workers, length)
        return [packed_context(number, workers, sync, bell, tiles[number]) for number in range(workers)], sync

    def _tile_length(self, dtype: np.dtype) -> int:
        """Of a worker's scratch: a tile, and what a product takes besides."""
        return words.TILE + self._products.room(dtype)

    # Compiling.

    def entry(self, body: str, dtype: np.dtype) -> Callable[..., Any]:
        """The compiled entry of a body for a dtype: the one function behind Numba's dispatcher, which takes 0.6 us of
        a call to find it. It takes on trust that the arguments are of its signature's types (backends/entries.py).
        """
        found = self._entries.get((body, dtype))
        if found is None:
            (compiled,) = self.dispatcher(body, dtype).overloads.values()
            found = self._entries[body, dtype] = compiled.entry_point
        return found

    def dispatcher(self, body: str, dtype: np.dtype) -> Any:
        """Numba's dispatcher of an entry, with its one signature: from memory, from disk, or made now, in seconds."""
        # On a thread of its own: an exception that reaches the caller meanwhile (Ctrl-C) would be lost in one of
        # LLVM's callbacks, and a signal handler that comes back here would find the compiler half way.
        with self._lock:
            if (body, dtype) not in self._compiled:
                self._compiled[body, dtype] = self._compiler.submit(self._compile_entry, body, dtype)
            compiled = self._compiled[body, dtype]
        return compiled.result()

    def _compile_entry(self, name: str, dtype: np.dtype) -> Any:
        function = entries.body(name)
        scalar = types.float32 if dtype == np.float32 else types.float64
        kinds = dict(zip(entries.parameters(name), entries.signature(name, scalar, types), strict=True))
        kept = {parameter: kinds.pop(parameter) for parameter in KEPT.get(name, ())}
        taken = {"context": NUMBERS} | ({"kept": NUMBERS} if kept else {}) | kinds
        views = {"context_of": context_of(types.Array(scalar, 1, "C")), "borrowed": borrowed}
        views |= {"sync_of": sync_of, "bell_of": bell_of}
        views |= {f"{key}_of": unpacked(kind, number * ARRAY) for number, (key, kind) in enumerate(kept.items())}
        made = {"c": "context_of(context)"} | {key: f"{key}_of(kept)" for key in kept}
        made |= {key: f"borrowed({key})" for key, kind in kinds.items() if isinstance(kind, types.Array)}
        bound = self._binder.wrap(
            entry_around(function, BEFORE, AFTER, taken, made),
            label=f"{name}.{dtype}.{self._products_by}",
            __name__=__name__,
            body=entries.bound(self._binder, name, thin=True),
            flush_subnormals=machine.flush_subnormals,
            restore_subnormals=machine.restore_subnormals,
            begin=meeting.begin,
            end=meeting.end,
            **views,
        )
        outer = [Borrowed.of(kind) if isinstance(kind, types.Array) else kind for kind in taken.values()]
        needed = partial(self._products.load, dtype.name, self._binder.digest) if name in entries.MULTIPLYING else None
        announce = f"fusedmlp: compiling {name} for {dtype} (once on this machine)"
        return compile_cached(bound, tuple(outer), announce, needed)


def compile_cached(
    function: Callable[..., Any], signature: Any, announce: str, needed: Callable[[], Any] | None = None
) -> Callable[..., Any]:
    """`function` compiled for one signature, from Numba's cache on disk where it is there; and before it what it calls
    by its symbol."""
    dispatcher = cached(lambda cache: njit(cache=cache, **compiling.ENTRY)(function))
    from fusedmlp.backends.cpu.announce import announced

    # Numba asks for SciPy's BLAS when it first compiles, or loads what it compiled: by itself that is imported in
    # 0.05 s, and with scipy.linalg around it in 0.2.
    with announced(announce, dispatcher), blas.importable(), compiling.UNCOLLECTED:
        if needed is not None:
            needed()
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def _compile_inner(function: Callable[..., Any], thin: bool) -> Any:
    options = compiling.INNER_LOOP if hasattr(function, "inner_loop") else compiling.CALLED
    return njit(**(compiling.INLINED if thin else options))(function)


def _abandoning(sync: Array) -> Callable[[], None]:
    """What releases the workers of a call from their barriers."""

    def abandon() -> None:
        sync[meeting.ABANDONED] = 1

    return abandon


def _threads_from_environment() -> int | None:
    text = os.environ.get("FUSEDMLP_NUM_THREADS")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"FUSEDMLP_NUM_THREADS: expected a whole number of at least 1, got {text!r}")
    if int(text) > MOST_THREADS:
        raise ValueError(f"FUSEDMLP_NUM_THREADS: expected at most {MOST_THREADS} on this machine, got {text}")
    return int(text)


def _host_features() -> str:
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_features().flatten()


def _host_name() -> str:
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name()


_INT64 = np.dtype(np.int64)
_NO_BELL = np.zeros(0, _INT64)
