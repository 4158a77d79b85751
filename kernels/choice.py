"""How a body meets the rules without listing them.

A *template* is a body with holes: names that stand for one rule's formulas. A `Choice` says which template each
rule fills. The binder rebuilds the template once for every rule and joins the results by one branch, so which rule it
is, is decided once a call of the choice (a tile), never in an inner loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _hole(*_arguments: Any) -> Any:
    raise NotImplementedError("a hole of a template: bind it to a rule first")


# The holes of the templates in dense.py, batch_loss.py and interpreter.py.
value = gradient = step = probabilities = indices = instruction = _hole
SAVES_PREACTIVATION = False
SLOTS = 0


@dataclass(frozen=True)
class Choice:
    """A body `choice(kind, *arguments)`, bound from one template a rule.

    family    which registry the kinds number: "activations", "losses" or "updates"
    template  template(rule) -> the body with holes
    holes     holes(rule) -> what each hole of that body becomes
    """

    family: str
    template: Callable[[Any], Callable[..., Any]]
    holes: Callable[[Any], dict[str, Any]]

    def __call__(self, *_arguments: Any) -> Any:
        raise NotImplementedError("a choice among rules: bind the calling function to a backend first")
