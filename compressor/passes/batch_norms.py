"""Statistics of batch norms, measured anew: those of a wider model are not those of what is left of it.

A traced graph keeps its statistics while it is trained, so nothing later would put them right.

Source: Li et al. 2020, "EagleEye: Fast sub-net evaluation for efficient neural network pruning", section 3.3 (adaptive
batch normalization).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.passes.base import Context
from compressor.passes.propagation import operator_name

if TYPE_CHECKING:
    from compressor.model.base import TorchModel

EXAMPLES = 512
"""Most examples that statistics are measured on."""

LEAST = 16
"""Fewest examples whose mean and variance stand for those of all."""

_BATCH = 64
_SMALLEST = 1e-6


def adapted(model: TorchModel, context: Context) -> tuple[str, ...]:
    """Measure the statistics of a traced model's batch norms anew, in place, on calibration examples.

    Args:
        model: Its module is its own; one that is no graph is left as it is.
        context: For the data; drawn ones have other statistics than real ones and are not used.

    Returns:
        What was done, in at most one sentence; nothing for a model without batch norms.
    """
    module = model.module
    if not isinstance(module, GraphModule) or not any(_normalises(node) for node in module.graph.nodes):
        return ()
    inputs = () if context.task.summary.synthetic else context.task.calibration().inputs
    count, fixed = min(len(inputs[0]), EXAMPLES) if inputs else 0, model.inputs[0].shape[0]
    if count < LEAST or (fixed is not None and fixed < LEAST):
        why = f"{count} real examples are" if count < LEAST else f"a fixed batch of {fixed} is"
        return (f"The batch norms keep the statistics of the whole model: {why} too few to measure them anew.",)
    rows = np.linspace(0, len(inputs[0]) - 1, count).astype(np.int64)
    # A fixed batch gets its last call filled up from the beginning.
    parts = np.array_split(
        np.resize(rows, -(-count // fixed) * fixed) if fixed else rows, -(-count // (fixed or _BATCH))
    )
    measure(module, (tuple(torch.from_numpy(np.ascontiguousarray(x[part])) for x in inputs) for part in parts))
    return (f"The statistics of the batch norms were measured anew on {count} calibration examples.",)


def measure(module: GraphModule, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Set the statistics of every batch norm of a graph to those of what reaches it, in place.

    Each batch is normalised by its own mean and variance on its way; what is kept are their means over the batches.

    Args:
        module: The graph.
        batches: Its inputs, batch by batch, of about one size.
    """
    runner = _Runner(module)
    with torch.no_grad():
        for batch in batches:
            runner.run(*batch)
        for statistic, found in runner.found.values():
            statistic.copy_(torch.stack(found).mean(0))


def _normalises(node: Node) -> bool:
    """Whether a node is a batch norm with statistics of its own; without any it takes each batch's."""
    return "batch_norm" in operator_name(node) and node.args[3] is not None


class _Runner(Interpreter):
    """Runs a graph with the statistics of the batch that it is given, and remembers them."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def run_node(self, n: Node) -> Any:
        if _normalises(n):
            given: Any = self.map_nodes_to_values(n.args, n)
            x, mean, variance = given[0], given[3], given[4]
            axes = [axis for axis in range(x.ndim) if axis != 1]
            for statistic, value in ((mean, x.mean(axes)), (variance, x.var(axes).clamp_min(_SMALLEST))):
                statistic.copy_(value)
                # A norm that is used twice has the mean over its uses.
                self.found.setdefault(id(statistic), (statistic, []))[1].append(value)
        return super().run_node(n)
