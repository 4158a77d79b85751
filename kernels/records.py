"""What the records of rules have in common: parameters, with what each must be, and being found by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, TypeVar


class Parametrized:
    """A record with the fields `name`, `parameters` (pairs of name and value) and `above_zero` (the names of those that
    must be above 0). Calling it with parameters gives one with other values: `leaky_relu(slope=0.2)`."""

    name: str
    parameters: tuple[tuple[str, float], ...]
    above_zero: tuple[str, ...]

    def __call__(self, **values: float) -> Self:
        """TypeError for a parameter that the rule does not have, and for what is no number; ValueError for a value that
        is not finite, or not above 0 where it must be."""
        known = dict(self.parameters)
        for name, value in values.items():
            if name not in known:
                raise TypeError(f"{self.name}: unknown parameter {name!r}; expected {', '.join(known) or 'none'}")
            known[name] = (positive if name in self.above_zero else finite)(self.name, name, value)
        return replace(self, parameters=tuple(known.items()))  # type: ignore[type-var]


Record = TypeVar("Record", bound=Parametrized)


def find(given: str | Record, registry: Mapping[str, Record], argument: str, word: str) -> Record:
    """The record of that name, or the record itself. TypeError for what is neither; ValueError for an unknown name,
    naming the valid ones, and for a record with formulas of its own, which nothing would run."""
    if isinstance(given, str) and given in registry:
        return registry[given]
    names = ", ".join(registry)
    if isinstance(given, str):
        raise ValueError(f"{argument}: unknown {word} {given!r}; expected one of {names}")
    if not isinstance(given, Parametrized):
        came = f"{given!r:.60} of type {type(given).__name__}"
        raise TypeError(f"{argument}: expected a record, or one of {names}; got {came}")
    known = registry.get(given.name)
    if known is not given and (known is None or known(**dict(given.parameters)) != given):
        raise ValueError(
            f"{argument}: expected one of {names}, with other parameters at most; the formulas of {given.name!r} are "
            f"not this library's"
        )
    return given


def finite(owner: str, name: str, value: Any, *, at_least: float | None = None, below: float | None = None) -> float:
    """`value` as a float. TypeError unless it is a number; ValueError unless it is finite and within its bounds."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or getattr(value, "ndim", False):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    number = float(value)
    bounds = [f"at least {at_least:g}"] if at_least is not None else []
    bounds += [f"below {below:g}"] if below is not None else []
    within = (at_least is None or number >= at_least) and (below is None or number < below)
    if number - number != 0.0 or not within:
        raise ValueError(f"{owner}: {name} must be {' and '.join(['finite', *bounds])}, got {value!r}")
    return number


def positive(owner: str, name: str, value: Any) -> float:
    """`value` as a float. TypeError unless it is a number; ValueError unless it is finite and above 0."""
    number = finite(owner, name, value)
    if number <= 0.0:
        raise ValueError(f"{owner}: {name} must be above 0, got {value!r}")
    return number


def flag(owner: str, name: str, value: Any) -> None:
    """Raises TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False, got {value!r}")
