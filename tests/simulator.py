"""The CUDA simulator as a backend of the conformance suite."""

from fusedmlp.backends.cuda.simulator import Simulator


def get_simulator() -> Simulator:
    return Simulator()
