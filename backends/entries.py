"""What every backend can enter: the single kernels, the interpreter and the measurements, by name, and the types that
they take."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fusedmlp.backends.binder import Binder
from fusedmlp.kernels import interpreter, measure, single
from fusedmlp.kernels.activations import PARAMETERS
from fusedmlp.kernels.optimizers import SCALARS

_HOMES = {
    single: ("forward", "backward", "epilogue", "bias_gradient", "apply", "apply_backward", "loss", "step"),
    interpreter: ("run", "advance"),
    measure: ("multiply", "add", "write", "meet"),
}
_BODIES = {name: getattr(home, name) for home, names in _HOMES.items() for name in names}
# An instruction of the program as an entry of its own; some serve two.
_INSTRUCTIONS = {f"one.{body.__name__}": body for body in interpreter.INSTRUCTIONS.values()}
NAMES = (*_BODIES, *_INSTRUCTIONS)
MULTIPLYING = ("forward", "backward", "run", "multiply")  # those that multiply matrices
MEETING = ("backward", "loss", "run", "write", "meet")  # those whose workers meet at a barrier


def instruction(op: int) -> str:
    """The entry that runs an instruction."""
    return f"one.{interpreter.INSTRUCTIONS[op].__name__}"


def body(name: str) -> Callable[..., Any]:
    """The function of kernels/ behind an entry."""
    return interpreter.one if name in _INSTRUCTIONS else _BODIES[name]


@functools.cache
def parameters(name: str) -> tuple[str, ...]:
    """The names of an entry's arguments after the context, in the order of `signature`."""
    return tuple(inspect.signature(body(name)).parameters)[1:]


def bound(binder: Binder, name: str, thin: bool = False) -> Any:
    """An entry's body as a backend's."""
    if name in _INSTRUCTIONS:
        return binder.fill(interpreter.one, name, instruction=_INSTRUCTIONS[name])
    return binder.bind(_BODIES[name], thin)


def signature(name: str, scalar: Any, types: Any, readonly: bool = True) -> tuple[Any, ...]:
    """The types of an entry's arguments after the context, for a compute dtype `scalar`, in the terms of a compiler's
    module `types`. Inputs are contiguous, every other layout being seconds more of compiling, and `readonly`, which
    writable and memory-mapped arrays fit; a device has no such arrays."""

    def reads(dimensions: int, of: Any = scalar) -> Any:
        return types.Array(of, dimensions, "C", readonly=readonly)

    def writes(dimensions: int, of: Any = scalar) -> Any:
        return types.Array(of, dimensions, "C")

    number, flag = types.int64, types.boolean
    parameters = types.UniTuple(scalar, PARAMETERS)
    labels = reads(1, number)
    work = (
        *(reads(2, number), writes(1), reads(2), reads(2), reads(1), labels, writes(1, number)),
        *(reads(1, number), reads(2), writes(1, types.float64), writes(2)),
    )
    if name in _INSTRUCTIONS:
        return (writes(1, number), *work, number, number, number, flag)
    arguments: dict[str, tuple[Any, ...]] = {
        "forward": (
            *(reads(2), reads(2), reads(1), writes(2), writes(2), flag),
            *(number, flag, number, parameters, number),
        ),
        "backward": (
            *(reads(2), reads(2), reads(2), reads(2), writes(1), writes(2), writes(2), writes(1)),
            *(number, number, parameters, number),
        ),
        "epilogue": (writes(2), reads(1), writes(2), writes(2), flag, number, parameters),
        "bias_gradient": (reads(2), writes(1), flag, number),
        "apply": (reads(2), writes(2), number, parameters),
        "apply_backward": (reads(2), reads(2), writes(2), number, parameters),
        "loss": (
            *(reads(2), reads(2), labels, writes(2), writes(2), writes(1), reads(1), scalar),
            *(flag, number, parameters),
        ),
        "step": (
            *(reads(1), writes(1), writes(1), writes(1), writes(1)),
            *(number, types.UniTuple(scalar, SCALARS), number),
        ),
        "run": (*work, number, number, number, flag),
        "advance": (writes(1, number), number),
        "multiply": (reads(2), reads(2), writes(2), number),
        "add": (reads(2), writes(2), number),
        "write": (reads(2), writes(2), flag, number, number, number),
        "meet": (number,),
    }
    return arguments[name]
