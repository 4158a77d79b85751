"""The ways in which Numba compiles for the processor: its own passes, but for two.

Numba inlines into a function that is to be inlined first, and then copies it: twice, and with each of its blocks all of
its variables. For `run`, of which 300 calls become part, these were two million of them, a fifth of the time and a
third of the memory that compiling takes. Here a function becomes part of its caller as it stands, and then the calls
that it brought do.

And to LLVM each of Numba's functions is one that others may call as well. What an entry calls nobody else does: once
LLVM knows that, only what is used is handed over, which of an array is half (64-64-10 took 2 to 4 % less, and `run`
compiled 5 % sooner, AMD EPYC).
"""

from typing import Any, ClassVar

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering
from numba.core.untyped_passes import InlineInlinables

# Instructions of LLVM's: a longer function that an entry calls stays one. LLVM would inline all that are called once,
# for which `run` compiles 15 % longer and is no faster. Where shorter ones stayed as well, 64-64-10 took 1 % more.
SHORT = 100


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


class _ClosedLibrary(JITCodeLibrary):
    """The code of a function and of what it calls, into which nobody else calls."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            linked = function.linkage == llvm.Linkage.linkonce_odr and not function.name.startswith("NRT_")
            if linked and not function.is_declaration:
                function.linkage = llvm.Linkage.internal
                length = sum(1 for block in function.blocks for _ in block.instructions)
                if length > SHORT and b"alwaysinline" not in b" ".join(function.attributes):
                    function.add_function_attribute("noinline")
        super()._optimize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerClosed(NativeLowering):
    _name = "lower_closed"

    def run_pass(self, state: Any) -> bool:
        state.library = _ClosedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


class OneByOne(CompilerBase):
    """For what other compiled functions call."""

    ours: ClassVar[dict[type, type]] = {InlineInlinables: _InlineOneByOne}

    def define_pipelines(self) -> list[PassManager]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(self.ours.get(each, each), what) for each, what in passes.passes]
        passes.finalize()
        return [passes]


class Closed(OneByOne):
    """For an entry, which Python calls and nobody else."""

    ours = OneByOne.ours | {NativeLowering: _LowerClosed}
