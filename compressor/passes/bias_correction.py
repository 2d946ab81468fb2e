"""Bias correction: take back the shift that rounding the weights gives to the mean of a convolution's output.

A depthwise filter has nine weights or so, whose rounding errors do not average out over inputs; what is left shifts
every later layer. The expected shift of output ``o``, the sum of ``(Wq - W)[o, c] E[x_c]`` over inputs ``c`` and taps,
is subtracted from the bias, which costs nothing at run time. The means are those of the calibration examples.

On MobileNetV2 with ImageNet's weights (160 px, crops of photographs) it lowered the error of the output from 0.178 to
0.169 with a scale per channel, from 0.206 to 0.183 with 7-bit weights, from 0.262 to 0.211 with one scale per layer.
Cross-layer equalisation is left out: it is for one scale per layer, and not exact across the ReLU6 of such nets.

Source: Nagel et al., "Data-free quantization through weight equalization and bias correction" (ICCV 2019), section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.onnx_wire import array_of

if TYPE_CHECKING:
    import onnx


def has_depthwise(proto: onnx.ModelProto, layers: Set[str]) -> bool:
    """Whether any of the layers filters each channel by itself; one of a single weight each has no rounding error.

    Args:
        proto: The model.
        layers: Names of nodes.
    """
    dims = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    return any(
        node.op_type == "Conv"
        and node.name in layers
        and _groups(node) > 1
        and dims[node.input[1]][1] == 1 < math.prod(dims[node.input[1]][2:])
        for node in proto.graph.node
    )


def convolution_inputs(proto: onnx.ModelProto, layers: Set[str]) -> dict[str, int]:
    """Activations that convolutions read.

    Args:
        proto: The model.
        layers: Names of nodes; those that are no convolution are passed over.

    Returns:
        Activation to the number of its axes.
    """
    dims = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    return {
        node.input[0]: len(dims[node.input[1]])
        for node in proto.graph.node
        if node.op_type == "Conv" and node.name in layers
    }


def correct_biases(
    plain: onnx.ModelProto, quantized: onnx.ModelProto, layers: Set[str], means: Mapping[str, NDArray[np.float64]]
) -> int:
    """Correct the biases of quantized convolutions.

    Args:
        plain: The float32 model.
        quantized: What :func:`~compressor.passes.qdq.write_static` made of it; changed in place.
        layers: Names of nodes; those that are no convolution with a bias are passed over.
        means: Mean of each channel of the activations that the convolutions read.

    Returns:
        How many biases were corrected.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {name: node for node in quantized.graph.node for name in node.output}
    nodes = {node.name: node for node in quantized.graph.node}
    readers = [name for node in quantized.graph.node for name in node.input]
    corrected = 0
    for node in plain.graph.node:
        low = nodes.get(node.name)
        if node.op_type != "Conv" or node.name not in layers or low is None or len(low.input) < 3:
            continue
        levels, scale = (array_of(tensors[name]) for name in makers[low.input[1]].input[:2])
        bias = makers[low.input[2]]
        if readers.count(bias.input[0]) > 1 or readers.count(low.input[2]) > 1:
            continue  # two layers share it
        weight = array_of(weights[node.input[1]])
        rounded = levels * scale.reshape(-1, *[1] * (weight.ndim - 1))
        error = (rounded.astype(np.float64) - weight).sum(axis=tuple(range(2, weight.ndim)))
        # Output o of a grouped convolution reads the channels of its group only.
        groups = _groups(node)
        read = means[node.input[0]].reshape(groups, -1).repeat(len(weight) // groups, axis=0)
        shift = (error * read).sum(axis=1)
        old, unit = (array_of(tensors[name]) for name in bias.input[:2])
        new = np.clip(np.rint(old - shift / unit), np.iinfo(np.int32).min, np.iinfo(np.int32).max)
        tensors[bias.input[0]].CopyFrom(numpy_helper.from_array(new.astype(np.int32), bias.input[0]))
        corrected += 1
    return corrected


def _groups(node: onnx.NodeProto) -> int:
    return int(next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1))
