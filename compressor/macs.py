"""Multiply-accumulates of an ONNX graph, counted from its shapes: one of them is two floating-point operations.

Counted are convolutions, matrix products and recurrences, whatever their precision; additions, activations and
normalisations are left out, as is usual (Sze, Chen, Yang and Emer, "Efficient Processing of Deep Neural Networks",
Proceedings of the IEEE 105, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Shape = Sequence[int | None]
Sizes = Mapping[str, Sequence[int]]
"""Sizes of the axes behind the batch, by the input's name."""
_VALUES = 1024

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "FusedConv": 1}
"""Operator to the position of its weights among its inputs."""
_PRODUCTS = {
    "MatMul": 0,
    "MatMulInteger": 0,
    "QLinearMatMul": 0,
    "FusedMatMul": 0,
    "MatMulIntegerToFloat": 0,
    "DynamicQuantizeMatMul": 0,
    "Gemm": 0,
    "FusedGemm": 0,
    "QGemm": 0,
}
_RECURRENCES = {"RNN": 1, "GRU": 3, "LSTM": 4, "DynamicQuantizeLSTM": 4}
"""Operator to its number of gates."""
_COUNTED = frozenset({*_CONVOLUTIONS, *_PRODUCTS, *_RECURRENCES, "ConvTranspose", "MatMulNBits"})
_UNKNOWN = frozenset({"Einsum", "Attention", "MultiHeadAttention", "DeformConv"})
"""Operators that do products of which no count is made."""


def count_macs(proto: onnx.ModelProto, sizes: Sizes = MappingProxyType({})) -> int | None:
    """Count the multiply-accumulates of one example.

    Args:
        proto: The model; its weights' values are not looked at. The batch is the first axis of its inputs.
        sizes: Of the example, for axes that the file leaves free.

    Returns:
        The count; ``None`` where a shape that it needs is not known (a free length without a size, control flow): a
        count with a part missing would look whole.
    """
    total = 0
    for macs in macs_by_node(proto, sizes):
        if macs is None:
            return None
        total += macs
    return total


def macs_by_node(proto: onnx.ModelProto, sizes: Sizes = MappingProxyType({})) -> tuple[int | None, ...]:
    """Count the multiply-accumulates of one example in every operator.

    Args:
        proto: As for :func:`count_macs`.
        sizes: As for :func:`count_macs`.

    Returns:
        One count per node of the graph, in its order; 0 for an operator that does no products, ``None`` where a shape
        that it needs is not known.
    """
    import onnx

    batch, single = _of_one(proto, sizes)
    functions = {(function.domain, function.name) for function in single.functions}

    def counted(shapes: Mapping[str, Shape]) -> tuple[int | None, ...]:
        found = (
            None if (node.domain, node.op_type) in functions else _of_node(node, shapes) for node in single.graph.node
        )
        return tuple(None if macs is None else macs // batch for macs in found)

    try:
        found = counted(_shapes(onnx.shape_inference.infer_shapes(single, data_prop=True)))
    except onnx.shape_inference.InferenceError:
        found = (None,) * len(single.graph.node)
    whole = all(size.HasField("dim_value") for x in single.graph.input for size in x.type.tensor_type.shape.dim)
    return counted(_shapes_by_runtime(single)) if None in found and whole else found


def _of_one(proto: onnx.ModelProto, sizes: Sizes) -> tuple[int, onnx.ModelProto]:
    """The batch that the count is for, and the model's outline with a free batch set to 1 and the sizes filled in."""
    import onnx

    graph = proto.graph
    single = onnx.ModelProto(ir_version=proto.ir_version)
    single.opset_import.extend(proto.opset_import)
    single.functions.extend(proto.functions)
    single.graph.name = graph.name or "graph"
    single.graph.node.extend(graph.node)
    weights = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        # Shapes and axes are needed as values; weights as shapes only, or gigabytes would be copied.
        if math.prod(tensor.dims) <= _VALUES and tensor.data_location != onnx.TensorProto.EXTERNAL:
            single.graph.initializer.append(tensor)
        else:
            single.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inputs = [value for value in graph.input if value.name not in weights]
    first = next((value.type.tensor_type.shape.dim for value in inputs if value.type.tensor_type.shape.dim), None)
    batch = first[0].dim_value if first and first[0].HasField("dim_value") else 1
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs if value.type.tensor_type.shape.dim}
    filled = False
    for value in inputs:
        one = single.graph.input.add()
        one.CopyFrom(value)
        given = (batch, *sizes.get(value.name, ()))
        for axis, size in enumerate(one.type.tensor_type.shape.dim[: len(given)]):
            if not size.HasField("dim_value"):
                filled |= axis > 0
                size.dim_value = given[axis]
    # What was noted down for free sizes holds no longer.
    for value in () if filled else graph.value_info:
        one = single.graph.value_info.add()
        one.CopyFrom(value)
        for size in one.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param in symbols:
                size.dim_value = batch
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        single.graph.output.append(onnx.helper.make_tensor_value_info(value.name, kind, None))
    return max(1, batch), single


def _shapes_by_runtime(single: onnx.ModelProto) -> Mapping[str, Shape]:
    """Shapes that ONNX Runtime works out: behind its own operators, and where sizes are computed in the graph.

    It folds such computations, which onnx's inference follows in part only. What the products take and give is asked
    for as outputs, so that none of them is fused away; weights are inputs, so that none is loaded.

    Returns:
        What is known; nothing where it cannot load the graph.
    """
    import onnx
    import onnxruntime as ort

    shapes = dict(_shapes(single))
    products = (node for node in single.graph.node if node.op_type in _COUNTED)
    names = dict.fromkeys(name for node in products for name in (*node.input, *node.output) if name)
    asked = onnx.ModelProto()
    asked.CopyFrom(single)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shapes)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its errors share no base; the count is missing then, and is said to be
        return shapes
    for value in session.get_outputs():
        shapes[value.name] = tuple(size if isinstance(size, int) else None for size in value.shape)
    return shapes


def _shapes(proto: onnx.ModelProto) -> Mapping[str, Shape]:
    graph = proto.graph
    found: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if value.name not in found and kind.HasField("shape"):
            found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return found


def _product(sizes: Shape | None) -> int | None:
    known = [size for size in sizes or () if size is not None]
    return math.prod(known) if sizes is not None and len(known) == len(sizes) else None


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """MACs of an operator; 0 for one that does no products, ``None`` where its shapes are not known."""

    def attribute(name: str, default: int) -> int:
        return next((a.i for a in node.attribute if a.name == name), default)

    kind = node.op_type
    if kind in _CONVOLUTIONS:
        weights = _product(shapes.get(node.input[_CONVOLUTIONS[kind]], (None,))[1:])
        outputs = _product(shapes.get(node.output[0]))
        return None if weights is None or outputs is None else weights * outputs
    if kind == "ConvTranspose":
        weights = _product(shapes.get(node.input[1], (None,))[1:])
        inputs = _product(shapes.get(node.input[0]))
        return None if weights is None or inputs is None else weights * inputs
    if kind in _PRODUCTS:
        outputs = _product(shapes.get(node.output[0]))
        left = shapes.get(node.input[0])
        if outputs is None or not left:
            return None
        shared = left[-2 if attribute("transA", 0) and len(left) > 1 else -1]
        return None if shared is None else outputs * shared
    if kind == "MatMulNBits":
        elements = _product(shapes.get(node.input[0]))
        return None if elements is None else elements * attribute("N", 0)
    if kind in _RECURRENCES:
        steps = _product(shapes.get(node.input[0], (None,))[:2])
        features = shapes.get(node.input[0], (None,))[-1]
        hidden = attribute("hidden_size", 0)
        both = 2 if any(a.name == "direction" and a.s == b"bidirectional" for a in node.attribute) else 1
        if steps is None or features is None or not hidden:
            return None
        return steps * both * _RECURRENCES[kind] * hidden * (features + hidden)
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    within = (inner for body in bodies for inner in body.node)
    # How often a body runs is not known: it counts where there is nothing in it to count.
    return None if kind in _UNKNOWN or any(_of_node(inner, {}) != 0 for inner in within) else 0
