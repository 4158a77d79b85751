"""Numba's inlining, one call at a time.

Numba inlines into a function that is to be inlined first, and then copies it: twice, and with each of its blocks all of
its variables. For `run`, of which 300 calls become part, these were two million of them, a fifth of the time and a
third of the memory that compiling takes. Here a function becomes part of its caller as it stands, and then the calls
that it brought do.
"""

from typing import Any

from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.untyped_passes import InlineInlinables


def _untyped(state: Any) -> PassManager:
    """What Numba does with a function before it is inlined, but for inlining into it."""
    passes = DefaultPassBuilder.define_untyped_pipeline(state)
    passes.passes = [(each, what) for each, what in passes.passes if each is not InlineInlinables]
    return passes


@register_pass(mutates_CFG=True, analysis_only=False)
class _InlineOneByOne(InlineInlinables):
    _name = "inline_one_by_one"

    def _do_work(self, state: Any, work_list: Any, block: Any, i: int, expr: Any, inline_worker: Any) -> bool:
        inline_worker._compiler_pipeline = _untyped
        return bool(super()._do_work(state, work_list, block, i, expr, inline_worker))


class OneByOne(CompilerBase):
    """Numba's own passes, with that one in place of its own."""

    def define_pipelines(self) -> list[PassManager]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_InlineOneByOne if each is InlineInlinables else each, what) for each, what in passes.passes]
        passes.finalize()
        return [passes]
