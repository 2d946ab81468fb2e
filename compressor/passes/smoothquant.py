"""SmoothQuant: make a transformer's activations fit fixed 8-bit ranges, by moving their outliers into the weights.

A few channels of a transformer's activations are many times larger than the rest, so that one range for all of them
leaves the rest a handful of levels. Each channel is divided by ``s = max|x|^alpha / max|w|^(1 - alpha)`` and the
weights that read it are multiplied by it: the product stays the same. The division goes into the LayerNormalization in
front where there is one, and is a Mul elsewhere.

Source: Xiao et al., "SmoothQuant: Accurate and efficient post-training quantization for large language models" (ICML
2023), equation 4.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.onnx_file import load_outline, save_draft, save_onnx
from compressor.onnx_wire import array_of
from compressor.passes.base import Context
from compressor.passes.calibration import activation_ranges, channel_maxima, check_examples
from compressor.passes.int8_plan import PRODUCTS, Types, is_plain
from compressor.passes.qdq import clean, explained, quiet, write_static
from compressor.passes.rewrites import drop_unused, inputs_of, prepare, replace_nodes
from compressor.results import Step
from compressor.rules import Ruled, touched

if TYPE_CHECKING:
    import onnx

SMALLEST = 1e-5
"""Channels and weights below this are taken as this, so that a dead channel gives no infinite factor."""


@dataclass(frozen=True)
class SmoothQuant(Ruled):
    """Static int8 matrix products behind smoothed activations; convolutions are quantized with them.

    Attributes:
        alpha: How much of the difficulty moves from activations to weights, from 0 to 1.
        rules: Which layers become int8, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "smoothquant"
    alpha: float = 0.5
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise MethodError(
                f"alpha must be from 0 to 1, not {self.alpha:g}",
                where=self.name,
                mend=f"the nearest is {1 if self.alpha > 1 else 0}",
            )

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: The model is quantized already or has no matrix product with float32 weights, the calibration
                data cannot serve, or ONNX Runtime's quantizer gave up.
        """
        types = Types.of(context.cpu_features)
        working = tempfile.TemporaryDirectory(prefix=".smoothquant.", dir=target.parent)
        with working as name, quiet(), explained("ONNX Runtime's quantizer", source):
            folder = Path(name)
            proto = prepare(source, folder)
            layers, every = layers_of(proto)
            chosen = touched(every, self.parsed)
            left = [layer for layer in every if layer not in chosen]
            layers = [layer for layer in layers if layer in chosen]
            if not layers:
                mend = "exclude fewer layers"
                raise MethodError("the rules leave no matrix product to quantize", where=self.name, mend=mend)
            examples = context.task.calibration()
            check_examples(examples, proto)
            readers = _readers(proto, set(layers))
            smoothed = len(readers)
            sizes = {x: _inputs(proto, nodes[0]) for x, nodes in readers.items()}
            maxima = channel_maxima(proto, sizes, examples, folder, context.threads)
            folded = smooth(proto, readers, maxima, self.alpha)
            del readers  # they would keep the weights in memory
            nodes = tuple(node.name for node in proto.graph.node if node.name in chosen)
            proto = _infer(proto, folder)
            ranges = activation_ranges(proto, nodes, examples, folder, context.threads)
            proto = write_static(proto, nodes, ranges, types, folder, float_products=True)
            clean(proto)
            save_onnx(proto, target)
        convolutions = len(nodes) - len(layers)
        notes = [
            f"Static int8 (ranges from calibration): {len(layers)} matrix products"
            f"{f', {convolutions} convolutions' if convolutions else ''}.",
            f"Smoothed: {smoothed} activations, {folded} of them inside the LayerNormalization in front, "
            f"{smoothed - folded} by a multiplication of their own.",
        ]
        settings: dict[str, str | int | float | bool | None] = {
            "alpha": self.alpha,
            "activations": types.activation,
            "reduce_range": types.reduce_range,
            "rules": "; ".join(self.rules) or None,
        }
        if left:
            notes.append(f"Left in fp32 by the rules: {', '.join(left)}.")
        return Step(self.name, settings, (*notes, *types.notes))


def layers_of(proto: onnx.ModelProto) -> tuple[list[str], dict[str, str]]:
    """The layers that become int8.

    Args:
        proto: The model.

    Returns:
        Names of the matrix products, which are smoothed; name and operator of these and of the convolutions.

    Raises:
        MethodError: There is no matrix product.
    """
    layers = products(proto)
    if not layers:
        raise MethodError(
            "there is nothing to quantize: no matrix product with float32 weights",
            where=SmoothQuant.name,
            mend="it is for transformers; use int8 for convolutions",
        )
    every = (node for node in proto.graph.node if node.name in layers or _is_convolution(node, proto))
    return layers, {node.name: node.op_type for node in every}


def products(proto: onnx.ModelProto) -> list[str]:
    """Names of the matrix products of an activation and a float32 weight of two axes."""
    weights = _weights(proto)
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in PRODUCTS
        and is_plain(node)
        and len(node.input) > 1
        and node.input[0] not in weights
        and node.input[1] in weights
        and len(weights[node.input[1]].dims) == 2
        and all(weights[node.input[1]].dims)
        and weights[node.input[1]].data_type == weights[node.input[1]].FLOAT
    ]


def smooth(
    proto: onnx.ModelProto,
    readers: dict[str, list[onnx.NodeProto]],
    maxima: dict[str, NDArray[np.float64]],
    alpha: float,
) -> int:
    """Divide activations by channel and multiply the weights that read them.

    Args:
        proto: The model; changed in place.
        readers: Activation to the MatMul and Gemm nodes of ``proto`` that are to read it smoothed.
        maxima: Activation to each channel's largest absolute value.
        alpha: See :class:`SmoothQuant`.

    Returns:
        How many of the activations needed no operator of their own.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    weights = _weights(proto)
    users: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in inputs_of(node):
            users[name] = users.get(name, 0) + 1
    makers = {name: node for node in graph.node for name in node.output}
    places: dict[str, onnx.NodeProto] = {}
    folded = 0
    for name, nodes in readers.items():
        # With the inputs on the last axis, whichever way round a Gemm has its weight.
        arrays = [array_of(weights[node.input[1]]) for node in nodes]
        arrays = [array if _is_turned(node) else array.T for node, array in zip(nodes, arrays, strict=True)]
        largest = np.max([np.abs(array).max(axis=0) for array in arrays], axis=0)
        factor = np.maximum(maxima[name], SMALLEST) ** alpha / np.maximum(largest, SMALLEST) ** (1 - alpha)
        factor = factor.astype(np.float32)
        # What is changed gets a new name: the same weight may serve another layer as it was.
        for node, array in zip(nodes, arrays, strict=True):
            scaled = array * factor if _is_turned(node) else (array * factor).T
            node.input[1] = f"{node.name}.smoothed.{node.input[1]}"
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scaled), node.input[1]))
        norm = _norm_before(name, len(nodes), makers, users, weights)
        if norm is not None:
            for index, parameter in enumerate(norm.input[1:], 1):
                norm.input[index] = f"{norm.name}.smoothed.{parameter}"
                array = array_of(weights[parameter]) / factor
                graph.initializer.append(numpy_helper.from_array(array, norm.input[index]))
            folded += 1
            continue
        graph.initializer.append(numpy_helper.from_array(1 / factor, f"{name}.smooth"))
        for node in nodes:
            node.input[0] = f"{name}.smoothed"
        places[nodes[0].name] = helper.make_node(
            "Mul", [name, f"{name}.smooth"], [f"{name}.smoothed"], name=f"{name}.smoothing"
        )
    ordered = [part for node in graph.node for part in ([places[node.name]] if node.name in places else []) + [node]]
    replace_nodes(graph, ordered)
    drop_unused(graph)
    return folded


def _is_turned(node: onnx.NodeProto) -> bool:
    """Whether a weight is ``(outputs, inputs)``."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _inputs(proto: onnx.ModelProto, node: onnx.NodeProto) -> int:
    """How many inputs a matrix product sums over."""
    return int(_weights(proto)[node.input[1]].dims[1 if _is_turned(node) else 0])


def _weights(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def _readers(proto: onnx.ModelProto, layers: set[str]) -> dict[str, list[onnx.NodeProto]]:
    """Activation to the layers that read it, in the graph's order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if node.name in layers:
            readers.setdefault(node.input[0], []).append(node)
    return readers


def _norm_before(
    name: str,
    readers: int,
    makers: dict[str, onnx.NodeProto],
    users: dict[str, int],
    weights: dict[str, onnx.TensorProto],
) -> onnx.NodeProto | None:
    """The LayerNormalization that a factor per channel can be folded into, if all that it feeds reads it smoothed."""
    while users[name] == readers and (node := makers.get(name)) is not None:
        if node.op_type == "LayerNormalization":
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
            own = [parameter in weights and len(weights[parameter].dims) == 1 for parameter in node.input[1:]]
            return node if axis == -1 and all(own) and len(node.output) == 1 else None
        order = next((attribute.ints for attribute in node.attribute if attribute.name == "perm"), ())
        if node.op_type != "Transpose" or not order or order[-1] != len(order) - 1:
            return None
        name, readers = node.input[0], 1
    return None


def _is_convolution(node: onnx.NodeProto, proto: onnx.ModelProto) -> bool:
    return node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in _weights(proto)


def _infer(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with the shapes of what was added; by way of a file, as it may be larger than 2 GB."""
    import onnx

    save_draft(proto, folder / "smooth.onnx")
    onnx.shape_inference.infer_shapes_path(str(folder / "smooth.onnx"), str(folder / "inferred.onnx"))
    return load_outline(folder / "inferred.onnx")
