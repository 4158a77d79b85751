"""All rules, by family. The program calls a rule by its number: its place in its family."""

from typing import Any

from fusedmlp.kernels import activations, losses, optimizers

FAMILIES: dict[str, tuple[Any, ...]] = {
    "activations": tuple(activations.REGISTRY.values()),
    "losses": tuple(losses.REGISTRY.values()),
    "updates": tuple(optimizers.REGISTRY.values()),
}

_NUMBERS = {family: {rule.name: i for i, rule in enumerate(rules)} for family, rules in FAMILIES.items()}


def kind(family: str, rule: Any) -> int:
    """The number of a rule, whatever its parameters."""
    return _NUMBERS[family][rule.name]
