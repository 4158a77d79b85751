"""The ways in which Numba compiles for the processor: its own passes, but for two.

Numba inlines into a function that is to be inlined first, and then copies it: twice, and with each of its blocks all of
its variables. For `run`, of which 300 calls become part, these were two million of them, a fifth of the time and a
third of the memory that compiling takes. Here a function becomes part of its caller as it stands, and then the calls
that it brought do.

And Numba optimizes each function and makes machine code of it, then of all that calls it with its text within, and so
on up to what Python calls. Here a function that only others call is no more than simplified, and an entry is optimized
with all that it calls: `run` compiles in 18 s of processor time where it took 28 (AMD EPYC). What an entry calls nobody
else does, and LLVM is told: so only what is used is handed over, which of an array is half (64-64-10 took 2 to 4 %
less).
"""

from typing import Any, ClassVar

import llvmlite.binding as llvm
from numba._dynfunc import make_function
from numba.core.analysis import compute_cfg_from_blocks
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.environment import lookup_environment
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering
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


class _PartOfEntries(JITCodeLibrary):
    """The code of a function that only other compiled functions call: simplified within itself as Numba adds it, but
    nothing is inlined, no loop becomes one over vectors, and no machine code is made."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _LoopsApart(Lower):
    """A loop is best off by itself: as part of a longer function those over log_softmax's, silu's and softplus's slopes
    took 4 to 17 % more, and `run` compiled 8 % longer (AMD EPYC). What has none LLVM may take into its caller."""

    def lower_function_body(self) -> Any:
        if compute_cfg_from_blocks(self.blocks).loops() and not self.fndesc.inline:
            self.function.attributes.add("noinline")
        return super().lower_function_body()


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerCalled(NativeLowering):
    _name = "lower_called"
    lowering_class = _LoopsApart

    def run_pass(self, state: Any) -> bool:
        state.library = _PartOfEntries(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        # What Numba leaves out under that flag: its callers find a function under the object that would run it.
        made, library = state["cr"], state.library
        name, nowhere = made.fndesc.qualname, 0
        handle = make_function(made.fndesc.lookup_module(), name, "", nowhere, made.env, (library,))
        state.targetctx.insert_user_function(handle, made.fndesc, [library])
        state["cr"] = made._replace(cfunc=handle)
        return True


class _EntryLibrary(JITCodeLibrary):
    """The code of an entry and of what it calls, into which nobody else calls."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            linked = function.linkage == llvm.Linkage.linkonce_odr and not function.name.startswith("NRT_")
            if linked and not function.is_declaration:
                function.linkage = llvm.Linkage.internal
        super()._optimize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerEntry(NativeLowering):
    _name = "lower_entry"

    def run_pass(self, state: Any) -> bool:
        state.library = _EntryLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        changed = bool(super().run_pass(state))
        # Of what it calls as well, which has no machine code of its own: without them a print() in a body never ends.
        for variable in state.library._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                state.library.codegen.set_env(variable.name, environment)
        return changed


class _OurPasses(CompilerBase):
    lowering: ClassVar[type[NativeLowering]]

    def define_pipelines(self) -> list[PassManager]:
        ours = {InlineInlinables: _InlineOneByOne, NativeLowering: self.lowering}
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(ours.get(each, each), what) for each, what in passes.passes]
        passes.finalize()
        return [passes]


class Called(_OurPasses):
    """For what only other compiled functions call: Python cannot, and neither can two of them call each other."""

    lowering = _LowerCalled


class Entry(_OurPasses):
    """For an entry, which Python calls and no compiled function."""

    lowering = _LowerEntry
