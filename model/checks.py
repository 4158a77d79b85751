"""What the arguments of the trainer must be."""

from operator import index
from typing import Any


def whole(name: str, value: Any, at_least: int, below: int | None = None) -> int:
    """`value` as an int. TypeError unless it is a whole number, ValueError unless it is within its bounds."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r} of type {type(value).__name__}") from None
    if number < at_least or (below is not None and number >= below):
        bounds = f"at least {at_least}" + ("" if below is None else f" and below {below}")
        raise ValueError(f"{name}: expected {bounds}, got {number}")
    return number


def seed(value: Any) -> int:
    return whole("seed", value, 0, below=2**64)


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """`value` itself. ValueError unless it is one of `choices`, of the same type."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
