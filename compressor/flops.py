"""The layers of an ONNX graph: what each weighs and computes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from compressor.macs import Sizes, macs_by_node

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class LayerCost:
    """A node that holds weights or does products.

    Attributes:
        name: The node's name.
        op: Its operator.
        shape: Of its largest weight; empty if it has none.
        parameters: Number of its weights; those that an earlier layer has too are not counted again.
        flops: Floating-point operations for one example, two for each multiply-accumulate; ``None`` where a shape that
            is needed is not known.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    flops: int | None


def layer_costs(proto: onnx.ModelProto, sizes: Sizes = MappingProxyType({})) -> tuple[LayerCost, ...]:
    """List the layers of a graph.

    Args:
        proto: The model; its weights' values are not looked at. Quantized weights count for the layer behind their
            DequantizeLinear.
        sizes: As for :func:`~compressor.macs.count_macs`.

    Returns:
        The layers, in the graph's order.
    """
    from onnx import TensorProto

    graph = proto.graph
    weights = {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims and tensor.data_type not in (TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)
    }
    held: dict[str, tuple[str, ...]] = {name: (name,) for name in weights}
    counted: set[str] = set()
    found = []
    for node, macs in zip(graph.node, macs_by_node(proto, sizes), strict=True):
        # Scales and zero points are no weights.
        linear = node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
        names = [name for each in (node.input[:1] if linear else node.input) for name in held.get(each, ())]
        if linear:
            held[node.output[0]] = tuple(names)
            continue
        if not names and macs == 0:
            continue
        fresh = [name for name in dict.fromkeys(names) if name not in counted]
        counted.update(names)
        shape = max((weights[name] for name in names), key=math.prod, default=())
        parameters = sum(math.prod(weights[name]) for name in fresh)
        found.append(LayerCost(node.name or node.output[0], node.op_type, shape, parameters, _doubled(macs)))
    return tuple(found)


def _doubled(macs: int | None) -> int | None:
    return None if macs is None else 2 * macs
