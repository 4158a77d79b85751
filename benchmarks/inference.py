"""Networks that are asked, not trained: time per call by the number of rows, ours in turns with the peers."""

from typing import Any

import numpy as np

from fusedmlp.benchmarks import harness
from fusedmlp.benchmarks.cases import Case, Column

CHECKED_OUTPUTS = 200
# Of the largest output. Sums of up to 784 products were seen to differ by 1e-6 of it between the peers.
TOLERANCE = 1e-5


class Inference(harness.Bench):
    """A step is a call. All arrays are made before; the result is finished when the call is."""

    def _task(self, case: Case, column: Column) -> dict[str, Any]:
        return {"task": "infer", "case": case.name, "losses": CHECKED_OUTPUTS, "turn": self.turn}

    def _fault(self, losses: list[float], reference: list[float], column: Column) -> str:
        """Of the first outputs."""
        found, expected = np.array(losses), np.array(reference)
        if found.shape != expected.shape:
            return f"{len(losses)} outputs, not {len(reference)}"
        distance, largest = np.abs(found - expected), np.abs(expected).max()
        wrong = np.flatnonzero(~(distance <= TOLERANCE * largest))
        if not wrong.size:
            return ""
        at = int(wrong[0])
        return f"output {at} is {found[at]:.7g}, PyTorch has {expected[at]:.7g}; the largest is {largest:.3g}"
