"""Small ONNX graphs, and whether a rewrite leaves what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def model(nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], shape: list[object]) -> onnx.ModelProto:
    """A model from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(proto)


def run(proto: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def check_same(proto: onnx.ModelProto, rewrite: Callable[[onnx.ModelProto], object], expected: dict[str, int]) -> None:
    """Rewrite a model and see that it has the operators expected and computes the same."""
    shape = [dim.dim_value or 3 for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * 4
    before = run(proto, x)
    rewrite(proto)
    assert dict(Counter(node.op_type for node in proto.graph.node)) == expected
    np.testing.assert_allclose(run(proto, x), before, rtol=1e-4, atol=1e-5)
