"""Binding: a plain function of kernels/ becomes one backend's.

The function is rebuilt over a copy of its module's globals in which every word is the backend's, every choice a
branch among that backend's bodies, and every function it calls is bound the same way. Nothing is executed and no
source is touched, so a debugger still stops in the file that everybody reads.

Numba's cache on disk tells functions apart by file, qualified name, argument types and byte code, and none of
these sees what a global stands for: two bindings of one body would overwrite each other, and the second would
silently run the first's machine code. So each rebuilt function carries in its qualified name a digest of the
binding and of every source under kernels/.
"""

import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import fusedmlp.kernels
from fusedmlp.kernels.choice import Choice
from fusedmlp.kernels.rules import FAMILIES
from fusedmlp.kernels.vocabulary import WORDS

Holes = Mapping[str, Any]
NO_HOLES: Holes = MappingProxyType({})


def sources_in(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("**/*.py")))


def source_digest(sources: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


class Binder:
    """Binds functions of kernels/ to one set of words.

    words    word -> what it means here; every word of the vocabulary
    compile  compile(function, thin) makes a rebuilt function callable; a thin one becomes part of its caller
    folder   the backend's own sources, which go into the digest with those of kernels/ and of this folder: whatever
             decides what the words mean must stand there, or in the label of an entry
    rules    the numbers of those rules of a family that will be met, where not all of them may be
    """

    def __init__(
        self,
        words: Mapping[str, Callable[..., Any]],
        compile: Callable[[Callable[..., Any], bool], Any],
        folder: Path,
        rules: Iterable[tuple[str, tuple[int, ...]]] = (),
    ) -> None:
        missing = WORDS.keys() - words.keys()
        if missing:
            raise ValueError(f"words: a backend defines every word; missing are {', '.join(sorted(missing))}")
        self._words = words
        self._compile = compile
        self._rules = dict(rules)
        kernels = Path(fusedmlp.kernels.__file__).parent
        shared = sorted(Path(__file__).parent.glob("*.py"))  # this file, and what all backends compile in
        self.digest = source_digest((*shared, *sources_in(kernels), *sources_in(folder)))
        self._bound: dict[Any, Any] = {}

    def bind(self, function: Callable[..., Any], thin: bool = False) -> Any:
        """`function` as this backend's, compiled; as a thin one where it is marked so, or asked for."""
        return self._bind(function, thin=thin)

    def fill(self, template: Callable[..., Any], label: str, **holes: Callable[..., Any]) -> Any:
        """`template` as this backend's, its holes filled by other functions of kernels/."""
        return self._bind(template, {name: self._bind(body) for name, body in holes.items()}, label)

    def wrap(self, function: Callable[..., Any], label: str, **globals: Any) -> types.FunctionType:
        """`function`, a backend's own entry around a bound body, over the globals given; not compiled."""
        return self._renamed(types.FunctionType(function.__code__, globals, function.__name__), label)

    def _bind(self, function: Any, holes: Holes = NO_HOLES, rule: str = "", thin: bool = False) -> Any:
        if not _mentions(function, holes.keys()):
            holes, rule = NO_HOLES, ""
        thin = thin or hasattr(function, "thin")
        key = (function, rule, thin)
        if key not in self._bound:
            self._bound[key] = self._compile(self._rebuild(function, holes, rule), thin)
        return self._bound[key]

    def _rebuild(self, function: Any, holes: Holes, rule: str) -> types.FunctionType:
        scope: dict[str, Any] = {"__name__": function.__module__}
        for name in _global_names(function.__code__):
            if name in holes:
                scope[name] = holes[name]
            elif name in function.__globals__:
                scope[name] = self._meaning(function.__globals__[name], holes, rule)
        rebuilt = types.FunctionType(function.__code__, scope, function.__name__)
        rebuilt.__dict__.update(function.__dict__)  # its marks
        return self._renamed(rebuilt, rule)

    def _renamed(self, function: types.FunctionType, label: str) -> types.FunctionType:
        function.__qualname__ = ".".join(filter(None, (function.__name__, label, self.digest)))
        return function

    def _meaning(self, found: Any, holes: Holes, rule: str) -> Any:
        if isinstance(found, types.FunctionType):
            if WORDS.get(found.__name__) is found:
                return self._words[found.__name__]
            return self._bind(found, holes, rule)
        if isinstance(found, Choice):
            if found not in self._bound:
                self._bound[found] = self._branch(found)
            return self._bound[found]
        if isinstance(found, bool | int | float):
            return found
        raise TypeError(f"a body may name words, bodies, rules and numbers, not {found!r}")

    def _branch(self, choice: Choice) -> Any:
        """The choice as one branch on `kind`, a template bound for each rule."""
        bound: dict[str, Any] = {}
        rules = FAMILIES[choice.family]
        for number in self._rules.get(choice.family, range(len(rules))):
            rule = rules[number]
            holes = {
                hole: self._bind(formula) if isinstance(formula, types.FunctionType) else formula
                for hole, formula in choice.holes(rule).items()
            }
            bound[f"rule_{number}"] = self._bind(choice.template(rule), holes, f"{choice.family}.{rule.name}")
        parameters = ", ".join(inspect.signature(choice.template(rules[0])).parameters)
        lines = [f"def choose(kind, {parameters}):"]
        for name in bound:
            branch = "if" if len(lines) == 1 else "elif"
            lines.append(f"    {branch} kind == {name.removeprefix('rule_')}:\n        {name}({parameters})")
        lines += ["    pass"] * (not bound)
        return self._compile(self.wrap(_made("\n".join(lines)), choice.family, __name__=__name__, **bound), False)


def _made(source: str) -> Any:
    """The one function of a source text. It counts as part of this file, for Numba's cache and for tracebacks."""
    names: dict[str, Any] = {}
    exec(compile(source, __file__, "exec"), names)
    (name,) = (name for name in names if name != "__builtins__")
    return names[name]


def entry_around(
    body: Callable[..., Any],
    before: str = "pass",
    after: str = "return result",
    takes: Iterable[str] | None = None,
    made: Mapping[str, str] = NO_HOLES,
) -> Any:
    """A function that calls `body`, by that name, between two lines. It takes what the body does, or these instead, of
    which arguments of the body are `made`: expressions, by parameter. (Numba inlines no call with *arguments, and a
    call that is not inlined costs a second pass over the whole body, 4 s of 30.)"""
    names = inspect.signature(body).parameters
    own = ", ".join(names if takes is None else takes)
    given = ", ".join(made.get(name, name) for name in names)
    return _made("\n    ".join([f"def enter({own}):", before, f"result = body({given})", after]))


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _mentions(function: Any, holes: Any) -> bool:
    """Whether a function, or one that it calls, names one of the holes."""
    if not isinstance(function, types.FunctionType):
        return False
    for name in _global_names(function.__code__):
        if name in holes:
            return True
        found = function.__globals__.get(name)
        if WORDS.get(name) is not found and _mentions(found, holes):
            return True
    return False
