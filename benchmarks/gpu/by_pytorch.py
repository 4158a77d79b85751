"""PyTorch on the device, in the ways of benchmarks/explore/train_pytorch.py; "reference" is eager and in float32."""

from dataclasses import replace

import torch

from fusedmlp.benchmarks.explore import clocks, trainings
from fusedmlp.benchmarks.explore.train_pytorch import Graphed, precision
from fusedmlp.benchmarks.explore.trainings import Task
from fusedmlp.benchmarks.peers import Clocked
from fusedmlp.benchmarks.peers.pytorch import PyTorch

SPAN = 8  # steps a graph


def prepare(task: Task, mode: str) -> Clocked:
    torch.set_flush_denormal(True)
    if mode == "reference":
        task = replace(task, precision="float32")
    device, autocast = trainings.DEVICE, precision(task)
    if mode == f"graph of {SPAN} steps":
        made: PyTorch = Graphed(task.case, task.column, SPAN, device, autocast)
    else:
        own = {"reference": "eager", "eager": "fused"}.get(mode, mode)
        made = PyTorch(task.case, task.column, own, device, autocast)
    return Clocked(made, clocks.clock_for(device))
