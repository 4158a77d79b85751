"""What every backend can enter: the single kernels, the interpreter and the measurements, by name, and the types that
they take."""

from collections.abc import Callable
from typing import Any

from fusedmlp.kernels import interpreter, measure, single
from fusedmlp.kernels.activations import PARAMETERS
from fusedmlp.kernels.optimizers import SCALARS

_HOMES = {
    single: ("forward", "backward", "apply", "apply_backward", "loss", "step"),
    interpreter: ("run",),
    measure: ("multiply", "meet"),
}
_BODIES = {name: getattr(home, name) for home, names in _HOMES.items() for name in names}
NAMES = tuple(_BODIES)
MULTIPLYING = ("forward", "backward", "run", "multiply")  # those that multiply matrices


def body(name: str) -> Callable[..., Any]:
    """The function of kernels/ behind an entry."""
    return _BODIES[name]


def signature(name: str, scalar: Any, types: Any) -> tuple[Any, ...]:
    """The types of an entry's arguments after the context, for a compute dtype `scalar`, in the terms of a compiler's
    module `types`. Inputs are read-only contiguous arrays, which writable and memory-mapped ones fit: every other
    layout would be seconds more of compiling."""

    def reads(dimensions: int, of: Any = scalar) -> Any:
        return types.Array(of, dimensions, "C", readonly=True)

    def writes(dimensions: int, of: Any = scalar) -> Any:
        return types.Array(of, dimensions, "C")

    number, flag = types.int64, types.boolean
    parameters = types.UniTuple(scalar, PARAMETERS)
    labels = reads(1, number)
    arguments: dict[str, tuple[Any, ...]] = {
        "forward": (
            *(reads(2), reads(2), reads(1), writes(2), writes(2), flag),
            *(number, flag, number, parameters, number),
        ),
        "backward": (
            *(reads(2), reads(2), reads(2), reads(2), writes(2), writes(2), writes(2), writes(1)),
            *(number, number, parameters, number),
        ),
        "apply": (reads(2), writes(2), number, parameters),
        "apply_backward": (reads(2), reads(2), writes(2), number, parameters),
        "loss": (
            *(reads(2), reads(2), labels, writes(2), writes(2), writes(1), reads(1), scalar),
            *(flag, number, parameters),
        ),
        "step": (
            *(reads(2), writes(2), writes(2), writes(2), writes(2)),
            *(number, types.UniTuple(scalar, SCALARS), number),
        ),
        "run": (
            *(reads(2, number), writes(1), reads(2), reads(2), reads(1), labels, writes(1, number)),
            *(reads(1, number), reads(2), writes(1, types.float64)),
            *(writes(2), number, number, number, flag),
        ),
        "multiply": (reads(2), reads(2), writes(2), number),
        "meet": (number,),
    }
    return arguments[name]
