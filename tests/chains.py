"""Small ONNX models that many tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_chain(path: Path, width: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Write an ONNX multilayer perceptron ``(batch, width) -> (batch, width)``."""
    draw = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for index in range(layers):
        weight = draw.standard_normal((width, width)).astype(np.float32) / np.float32(np.sqrt(width))
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"m{index}"], name=f"matmul_{index}"))
        last = "y" if index == layers - 1 else f"a{index}"
        nodes.append(helper.make_node("Relu", [f"m{index}"], [last], name=f"relu_{index}"))
    shape = ["batch", width]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path
