"""The bodies uncompiled, one worker: slow and obvious."""

from pathlib import Path
from typing import Any

import numpy as np

from fusedmlp.backends import entries
from fusedmlp.backends.backend import Backend
from fusedmlp.backends.binder import Binder
from fusedmlp.backends.gang import Gangs
from fusedmlp.backends.python.words import WORDS, Context
from fusedmlp.kernels.interpreter import INTERRUPTED


class PythonBackend(Backend):
    name = "python"
    panel = 8 << 10
    most_workers = 1
    by_output = True

    def __init__(self) -> None:
        super().__init__()
        self._binder = Binder(WORDS, lambda function, thin: function, Path(__file__).parent)
        self._gangs = Gangs()

    def describe(self) -> str:
        return "python: the kernels uncompiled, one worker; slow, made to be read and stepped through"

    def launch(self, body: str, dtype: np.dtype, workers: int, *arguments: Any) -> Any:
        return self._run(Context(dtype), body, *arguments)

    def launch_interruptible(
        self, body: str, dtype: np.dtype, workers: int, *arguments: Any
    ) -> tuple[Any, BaseException | None]:
        context = Context(dtype)

        def interrupt() -> None:
            context.reason = INTERRUPTED

        return self._gangs(1).run(self._run, [context], (body, *arguments), interrupt, lambda: None)

    def _run(self, context: Context, body: str, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return entries.bound(self._binder, body)(context, *arguments)
