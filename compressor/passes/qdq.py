"""Writing int8 graphs in the form that ONNX Runtime fuses, and mixing such a graph with the one it came from."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError, MethodError
from compressor.onnx_file import load_outline, save_draft
from compressor.onnx_wire import array_of
from compressor.passes.int8_plan import STATIC_OPS, Plan, Types
from compressor.passes.rewrites import drop_unused, inputs_of, needed_nodes, replace_nodes
from compressor.passes.rounding import quantize_symmetric

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

Range = tuple[float, float]

_LOWEST = "lowest.float32"
_PASSED_BY = frozenset({"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that ONNX Runtime moves a QuantizeLinear in front of (its QDQPropagation, 1.31)."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_static(
    proto: onnx.ModelProto,
    nodes: tuple[str, ...],
    ranges: Mapping[str, Range],
    types: Types,
    folder: Path,
    *,
    per_channel: bool = True,
    float_products: bool = False,
) -> onnx.ModelProto:
    """Write QuantizeLinear/DequantizeLinear pairs around some nodes.

    Args:
        proto: The model; unchanged.
        nodes: Names of the nodes.
        ranges: Smallest and largest value of each activation around them.
        types: Integer types.
        folder: Where to put what lies between.
        per_channel: Whether every output channel's weights have a scale of their own.
        float_products: Whether what a MatMul puts out stays float32. (A Gemm's has to be quantized: ONNX Runtime fuses
            it with a ReLU otherwise, in float32.)

    Returns:
        The quantized model. Tensors keep their names: one that is quantized has a pair behind it.
    """
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), folder / "ranges.json")
    save_draft(proto, folder / "float.onnx")
    extra: dict[str, Any] = {"OpTypesToExcludeOutputQuantization": ["MatMul"]} if float_products else {}
    quantize_static(
        str(folder / "float.onnx"),
        str(folder / "static.onnx"),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC_OPS),
        nodes_to_quantize=list(nodes),
        per_channel=per_channel,
        reduce_range=types.reduce_range,
        activation_type=QuantType.QUInt8 if types.activation == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibration_cache_path=folder / "ranges.json",
        use_external_data_format=True,
        extra_options=extra,
    )
    return load_outline(folder / "static.onnx")


def write_dynamic(proto: onnx.ModelProto, nodes: Set[str], types: Types, folder: Path) -> onnx.ModelProto:
    """Quantize the weights of some nodes, and their activations in every call.

    Args:
        proto: The model; changed in place.
        nodes: Names of MatMul and LSTM nodes (no Gemm: see
            :func:`~compressor.passes.rewrites.split_gemms`).
        types: Integer types.
        folder: Where to put what lies between.

    Returns:
        The quantized model.
    """
    recurrent = [node.name for node in proto.graph.node if node.name in nodes and node.op_type == "LSTM"]
    _quantize_products(proto.graph, nodes, types)
    return _write_recurrent(proto, recurrent, types, folder) if recurrent else proto


def _quantize_products(graph: onnx.GraphProto, nodes: Set[str], types: Types) -> None:
    """Turn MatMuls into the operators that ONNX Runtime fuses to DynamicQuantizeMatMul, in place, weight by weight."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()
    new: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in nodes or node.op_type != "MatMul":
            new.append(node)
            continue
        source, weight = node.input
        if weight not in made:
            made.add(weight)
            levels, scale = quantize_symmetric(array_of(weights[weight]), types.reduce_range)
            arrays: dict[str, NDArray[np.generic]] = {
                "quantized": levels,
                "scale": scale,
                "zero_point": np.zeros(scale.shape, np.int8),
            }
            graph.initializer.extend(numpy_helper.from_array(x, f"{weight}_{end}") for end, x in arrays.items())
        low = f"{source}_dynamic"
        if low not in made:
            made.add(low)
            parts = [low, f"{low}_scale", f"{low}_zero_point"]
            new.append(helper.make_node("DynamicQuantizeLinear", [source], parts, name=f"{low}_quantize"))
        total, name = f"{node.output[0]}_integer", node.name
        operands = [low, f"{weight}_quantized", f"{low}_zero_point", f"{weight}_zero_point"]
        new += [
            helper.make_node("MatMulInteger", operands, [total], name=name),
            helper.make_node("Cast", [total], [f"{total}_float"], name=f"{name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{low}_scale", f"{weight}_scale"], [f"{total}_scale"], name=f"{name}_scales"),
            helper.make_node("Mul", [f"{total}_float", f"{total}_scale"], node.output, name=f"{name}_scale"),
        ]
    replace_nodes(graph, new)
    drop_unused(graph)


def _write_recurrent(proto: onnx.ModelProto, nodes: list[str], types: Types, folder: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    save_draft(proto, folder / "mixed.onnx")
    quantize_dynamic(
        str(folder / "mixed.onnx"),
        str(folder / "dynamic.onnx"),
        op_types_to_quantize=["LSTM"],
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=types.reduce_range,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    return load_outline(folder / "dynamic.onnx")


def mix(plain: onnx.ModelProto, quantized: onnx.ModelProto, plan: Plan, kept: Set[str]) -> onnx.ModelProto:
    """Take some layers from the quantized model and the others from the plain one.

    Between two int8 layers the activation stays int8; a node without weights is int8 where all that feeds it is.

    Args:
        plain: The float32 model; unchanged.
        quantized: What :func:`write_static` and :func:`write_dynamic` made of it; unchanged.
        plan: What was quantized.
        kept: Names of the layers that stay int8.

    Returns:
        The mixed model.
    """
    import onnx

    makers = {name: node for node in quantized.graph.node for name in node.output}
    # A quantized bias comes out of a node that is called as the bias was.
    doubled = {tensor.name for tensor in plain.graph.initializer if tensor.name in makers}
    pairs = _pairs(quantized.graph)
    planned = {*plan.static, *plan.dynamic}
    made = {value.name for value in plain.graph.input}
    low: set[str] = set()  # tensors that come out of int8
    passed: set[str] = set()  # float32 tensors that their maker would become int8 for
    chosen: dict[str, onnx.NodeProto] = {}
    for node in plain.graph.node:
        fed = [name for name in node.input if name in made]
        through = node.name in planned and bool(fed) and low.issuperset(fed)
        made.update(node.output)
        if node.name in kept if node.name in plan.layers else through:
            low.update(node.output)  # their makers are the quantized ones; an activation may be fused and gone
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [
            f"{name}.fp32" if name in doubled else pairs.get(name, name) if name in low else name for name in node.input
        ]
        if node.name in plan.layers and node.input[0] in low:
            shield = _shield(copy)
            chosen[shield.output[0]] = shield
        chosen.update((name, copy) for name in node.output if name)
        if node.op_type in _PASSED_BY:
            passed.update(node.output)
    return _assemble(plain, quantized, {**makers, **_shielded(quantized, passed), **chosen})


def _shield(node: onnx.NodeProto) -> onnx.NodeProto:
    """Put a Clip that cuts nothing between an int8 activation and a layer that is to stay float32.

    Without it ONNX Runtime quantizes the layer's weights itself, with one scale for all channels, where the layer's
    result is quantized too (its WeightBiasQuantization, 1.31).
    """
    from onnx import helper

    name = f"{node.name}.float"
    shield = helper.make_node("Clip", [node.input[0], _LOWEST], [name], name=name)
    node.input[0] = name
    return shield


def _shielded(quantized: onnx.ModelProto, passed: Set[str]) -> dict[str, onnx.NodeProto]:
    """Put the same Clip in front of the QuantizeLinear behind an operator that is to stay float32.

    Without it ONNX Runtime quantizes in front of that operator: more values, and a MaxPool between a float32
    convolution and an int8 one then runs in uint8 with the channels first, tens of times slower than in float32.
    """
    import onnx
    from onnx import helper

    made: dict[str, onnx.NodeProto] = {}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in passed:
            name = f"{node.name}.float"
            made[name] = helper.make_node("Clip", [node.input[0], _LOWEST], [name], name=name)
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[0] = name
            made[node.output[0]] = copy
    return made


def _pairs(graph: onnx.GraphProto) -> dict[str, str]:
    """Activation to what comes out of the QuantizeLinear/DequantizeLinear pair behind it."""
    back = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    pairs = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in back:
            end = back[node.output[0]]
            # A model's output keeps its name behind the pair; what is in front of it was renamed.
            pairs[end if node.input[0] == f"{end}_QuantizeLinear_Input" else node.input[0]] = end
    return pairs


def _assemble(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, makers: Mapping[str, onnx.NodeProto]
) -> onnx.ModelProto:
    """Put together what the outputs need, in topological order."""
    import numpy as np
    from onnx import numpy_helper

    mixed = _without_weights(quantized)
    order = needed_nodes(makers, [value.name for value in plain.graph.output])
    mixed.graph.node.extend(order)
    needed = {name for node in order for name in inputs_of(node)} | {value.name for value in plain.graph.output}
    weights = {tensor.name: tensor for tensor in (*plain.graph.initializer, *quantized.graph.initializer)}
    for name, tensor in weights.items():
        if name in needed and name not in makers:
            mixed.graph.initializer.append(tensor)
        if f"{name}.fp32" in needed:
            mixed.graph.initializer.append(tensor)
            mixed.graph.initializer[-1].name = f"{name}.fp32"
    if _LOWEST in needed:
        lowest = np.array(np.finfo(np.float32).min, np.float32)
        mixed.graph.initializer.append(numpy_helper.from_array(lowest, _LOWEST))
    return mixed


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model's frame: inputs, outputs and operator sets."""
    import onnx

    frame = onnx.ModelProto(ir_version=proto.ir_version)
    frame.opset_import.extend(proto.opset_import)
    frame.functions.extend(proto.functions)
    frame.graph.name = proto.graph.name
    frame.graph.input.extend(proto.graph.input)
    frame.graph.output.extend(proto.graph.output)
    return frame


def clean(proto: onnx.ModelProto) -> None:
    """Drop what the tools note down or infer and the operator sets that nothing uses; other runtimes know fewer.

    Args:
        proto: Changed in place.
    """
    proto.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    proto.producer_name, proto.producer_version = "compressor", ""
    used = {"", *(node.domain for node in proto.graph.node)}
    kept = [entry for entry in proto.opset_import if entry.domain in used or proto.functions]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


@contextmanager
def explained(tool: str, source: Path) -> Iterator[None]:
    """Turn what a library raises into one line; a full disk is left to whoever the folder belongs to.

    Args:
        tool: What gave up, e.g. ``ONNX Runtime's quantizer``.
        source: The model that it was given.

    Raises:
        MethodError: Anything else that went wrong inside.
        OSError: The disk is full.
    """
    try:
        yield
    except CompressorError:
        raise
    except Exception as error:  # asserts, ValueErrors and ONNX Runtime's own, which share no base
        reason = str(error).strip() or type(error).__name__
        if (isinstance(error, OSError) and error.errno in _DISK_FULL) or "No space left on device" in reason:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if isinstance(error, MemoryError) or "bad_alloc" in reason or "Failed to allocate memory" in reason:
            raise MethodError(
                "ran out of memory", where=source, mend="it takes up to twice the model's size; close other programs"
            ) from error
        raise MethodError(f"{tool} gave up: {reason}", where=source) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the quantizer's advice and ONNX Runtime's notes on unused weights from the user.

    They are about the intermediate files of a method (pre-processing, weights that fusing left unused).
    """
    import onnxruntime as ort

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    ort.set_default_logger_severity(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ort.set_default_logger_severity(2)
        logging.disable(before)
