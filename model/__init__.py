"""The thin trainer: networks, fit, data, files and the command line. It holds no formula."""

if __name__ != "fusedmlp.model":  # run inside the checkout, which would load every module a second time
    raise ImportError("there is no package `model`: import `fusedmlp.model`")

from fusedmlp.model.history import History, NonFiniteLoss
from fusedmlp.model.minibatches import batches
from fusedmlp.model.mlp import MLP

__all__ = ["MLP", "History", "NonFiniteLoss", "batches"]
