"""Graphs read, tidied and taken apart for the methods on them; none of it changes what they compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import MethodError
from compressor.onnx_file import load_outline, save_draft
from compressor.onnx_wire import array_of, is_inside

if TYPE_CHECKING:
    import onnx

OPSET = 13
"""Operator set of the first that a model is brought up to: that of scales per channel."""

SOURCE = "source.onnx"
"""What :func:`prepare` runs instead of a file with its weights inside: ONNX Runtime maps those in a second file, but
holds those in the same one twice (1.31)."""

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "Integer", "NBits", "QGemm")
"""Parts of the names of operators that only a quantized model has."""


def prepare(source: Path, folder: Path) -> onnx.ModelProto:
    """Read a model, fold constants and batch norms, infer shapes, and give every node a name of its own.

    Args:
        source: The ONNX file; it is only read.
        folder: Where to put what lies between.

    Returns:
        The model; its weights stay in ``folder`` and are read with :func:`~compressor.onnx_file.array_of`.

    Raises:
        MethodError: It is quantized already, or of an operator set that cannot be brought up to :data:`OPSET`.
    """
    import onnx
    import onnxruntime as ort

    outline = load_outline(source)
    for node in outline.graph.node:
        if any(part in node.op_type for part in QUANTIZED):
            raise MethodError(
                f"the model is quantized already: it holds {node.op_type} '{node.name or node.output[0]}'",
                where=source,
                mend="give the original model",
            )
    outline, changed = _modern(outline, source)
    if changed or any(is_inside(tensor, source) for tensor in outline.graph.initializer):
        save_draft(outline, folder / SOURCE)
        source = folder / SOURCE
    # ONNX Runtime's quant_pre_process does the same, but loses weights that are in a second file (1.31).
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded.onnx.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is run, and it doubles the memory
    options.log_severity_level = 3
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    onnx.shape_inference.infer_shapes_path(str(folder / "folded.onnx"), str(folder / "prepared.onnx"))
    prepared = load_outline(folder / "prepared.onnx")
    taken: set[str] = set()
    for node in prepared.graph.node:
        stem, count = node.name or node.op_type, 2
        while node.name in taken or not node.name:
            node.name, count = f"{stem}_{count}", count + 1
        taken.add(node.name)
    _flatten_biases(prepared.graph)
    _add_types(prepared, folder)
    return prepared


def _modern(outline: onnx.ModelProto, source: Path) -> tuple[onnx.ModelProto, bool]:
    """The model as newer tools write it, and whether that is a change; the given one may be changed.

    Weights are no inputs, inputs that are left out at the end are not listed, and the operator set is :data:`OPSET` at
    least.
    """
    from onnx import version_converter

    graph = outline.graph
    changed = False
    weights = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in weights:  # one that a caller may override is never folded, nor dropped
            del graph.input[index]
            changed = True
    outline.ir_version = max(outline.ir_version, 4)
    for node in graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
            changed = True
    version = next((entry.version for entry in outline.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return outline, changed
    try:
        return version_converter.convert_version(outline, OPSET), True
    except Exception as error:  # RuntimeError and onnx's own, by the operator
        reason = " ".join(str(error).split())
        raise MethodError(
            f"its operator set is {version}, and onnx cannot bring it up to {OPSET}: {reason}",
            where=source,
            mend=f"export it anew with operator set {OPSET} or later",
        ) from error


def _flatten_biases(graph: onnx.GraphProto) -> None:
    """Write Gemms' biases of one number, or of one row, as a number per output: all that quantizers understand."""
    import numpy as np
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3 or not {*node.input[1:]} <= weights.keys():
            continue
        turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        outputs = weights[node.input[1]].dims[0 if turned else 1]
        bias = weights[node.input[2]]
        if list(bias.dims) != [outputs] and math.prod(bias.dims) in (1, outputs):
            flat = np.ascontiguousarray(np.broadcast_to(array_of(bias).reshape(-1), (outputs,)))
            node.input[2] = f"{node.name}.{bias.name}"
            graph.initializer.append(numpy_helper.from_array(flat, node.input[2]))
    drop_unused(graph)


def _add_types(proto: onnx.ModelProto, folder: Path) -> None:
    """Ask ONNX Runtime for the types of activations that onnx cannot infer, such as those behind operators of its own.

    Args:
        proto: The model; changed in place.
        folder: Where to put what lies between.
    """
    import onnx
    import onnxruntime as ort

    graph = proto.graph
    known = {value.name for value in (*graph.input, *graph.value_info, *graph.output)}
    missing = [name for node in graph.node for name in node.output if name and name not in known]
    if not missing:
        return
    larger = onnx.ModelProto()
    larger.CopyFrom(proto)
    larger.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    save_draft(larger, folder / "typed.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "typed.onnx"), options, providers=["CPUExecutionProvider"])
    for value in session.get_outputs()[-len(missing) :]:
        if value.type == "tensor(float)":
            graph.value_info.append(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, value.shape))


def untie_axes(graph: onnx.GraphProto, planned: Set[str]) -> None:
    """Give a weight a second name where some layers take its outputs along another axis than others.

    ONNX Runtime's quantizer knows one axis per weight, along which its scales are (1.31).

    Args:
        graph: Changed in place.
        planned: Names of the nodes that are to be quantized.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    turned: dict[str, bool] = {}
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul") or node.name not in planned or node.input[1] not in weights:
            continue
        turns = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if turned.setdefault(node.input[1], turns) != turns:
            graph.initializer.append(weights[node.input[1]])  # a copy; its values may stay where they are in a file
            graph.initializer[-1].name = node.input[1] = f"{node.name}.{node.input[1]}"


def split_gemms(proto: onnx.ModelProto, planned: Set[str]) -> list[str]:
    """Turn planned Gemms into MatMul and Add: only MatMul has a dynamic kernel.

    ONNX Runtime's quantizer does so too, but transposes a weight once for every Gemm that uses it, which computes
    nonsense where layers share weights.

    Args:
        proto: Changed in place.
        planned: Names of the Gemms, and of other nodes, which are left as they are.

    Returns:
        Names of the planned nodes; a MatMul is called as its Gemm was.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = []
    for node in proto.graph.node:
        if node.op_type != "Gemm" or node.name not in planned:
            nodes.append(node)
            continue
        weight = node.input[1]
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weight = f"{node.input[1]}.transposed"
            if weight not in weights:
                turned = np.ascontiguousarray(array_of(weights[node.input[1]]).T)
                weights[weight] = numpy_helper.from_array(turned, weight)
                proto.graph.initializer.append(weights[weight])
        product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, name=f"{node.name}.bias"))
    replace_nodes(proto.graph, nodes)
    drop_unused(proto.graph)
    return sorted(planned)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a graph new nodes, some of which may be its own.

    Args:
        graph: Changed in place.
        nodes: The nodes, in order.
    """
    import onnx

    copies = []
    for node in nodes:
        copies.append(onnx.NodeProto())
        copies[-1].CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop weights that nothing uses any more.

    Args:
        graph: Changed in place.
    """
    used = {value.name for value in graph.output} | {name for node in graph.node for name in inputs_of(node)}
    # One by one: a list that is emptied and filled again holds every weight twice.
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its branches and loop bodies included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names += [name for inner in graph.node for name in inputs_of(inner)]
            names += [value.name for value in graph.output]
    return names


def needed_nodes(makers: Mapping[str, onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that some tensors need, in topological order.

    Args:
        makers: Tensor to the node that puts it out.
        outputs: The tensors.

    Returns:
        The nodes, each once.
    """
    order: list[onnx.NodeProto] = []
    done: set[int] = set()
    # Depth first without recursion: a deep network has more nodes than Python has stack.
    pending = [(name, False) for name in reversed(list(outputs))]
    while pending:
        name, ready = pending.pop()
        node = makers.get(name)
        if node is None or id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        pending.append((name, True))
        pending.extend((inside, False) for inside in reversed(inputs_of(node)) if inside)
    return order


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put nodes in topological order, as ONNX demands, and drop those that no output needs.

    Args:
        graph: Changed in place.
    """
    makers = {name: node for node in graph.node for name in node.output}
    replace_nodes(graph, needed_nodes(makers, [value.name for value in graph.output]))
