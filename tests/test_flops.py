from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compressor.flops import LayerCost, layer_costs


def model(nodes: list[onnx.NodeProto], inputs: list[int | str], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_layers_of_a_file(chain: Path) -> None:
    assert layer_costs(onnx.load(chain)) == (
        LayerCost("matmul_0", "MatMul", (64, 64), 4096, 8192),
        LayerCost("matmul_1", "MatMul", (64, 64), 4096, 8192),
    )


def test_convolution_counts_every_place_and_its_bias() -> None:
    weights = {"w": np.zeros((6, 2, 3, 3), np.float32), "b": np.zeros(6, np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", group=2, strides=[2, 2])
    (found,) = layer_costs(model([node], ["batch", 4, 9, 9], weights))
    assert found == LayerCost("conv", "Conv", (6, 2, 3, 3), 114, 2 * (2 * 3 * 3) * 6 * 4 * 4)


def test_weights_that_two_layers_share_are_counted_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
    ]
    found = layer_costs(model(nodes, ["batch", 8], {"w": np.zeros((8, 8), np.float32)}))
    assert [(layer.shape, layer.parameters, layer.flops) for layer in found] == [((8, 8), 64, 128), ((8, 8), 0, 128)]


def test_quantized_weights_count_for_the_layer_that_uses_them() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], name="dequantize"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    weights = {"q": np.zeros((8, 4), np.int8), "s": np.array(0.1, np.float32)}
    assert layer_costs(model(nodes, ["batch", 8], weights)) == (LayerCost("product", "MatMul", (8, 4), 32, 64),)


def test_products_of_activations_have_no_weights_and_elementwise_nodes_are_left_out() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["p"], name="scores"),
        helper.make_node("Relu", ["p"], ["y"]),
    ]
    assert layer_costs(model(nodes, ["batch", 5, 8], {})) == (LayerCost("scores", "MatMul", (), 0, 2 * 5 * 5 * 8),)


def test_free_length_is_not_known() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    (found,) = layer_costs(model(nodes, ["batch", "length", 8], {"w": np.zeros((8, 4), np.float32)}))
    assert found.flops is None
