import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.macs import count_macs


def model(nodes, inputs, weights=(), outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("batch", ["batch", None, 1, 4])
def test_a_convolution_counts_per_example_whatever_the_batch(batch):
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    # 8 channels of 6x6, each from 3 channels of 3x3.
    assert count_macs(model([conv], [("x", [batch, 3, 6, 6])], [("w", (8, 3, 3, 3))])) == 8 * 36 * 27


def test_groups_strides_and_transposition_are_counted():
    depthwise = helper.make_node("Conv", ["x", "w"], ["y"], group=8, strides=[2, 2], pads=[1, 1, 1, 1])
    assert count_macs(model([depthwise], [("x", ["n", 8, 6, 6])], [("w", (8, 1, 3, 3))])) == 8 * 9 * 9
    up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    assert count_macs(model([up], [("x", ["n", 4, 5, 5])], [("w", (4, 2, 2, 2))])) == 4 * 25 * 2 * 4


def test_products_and_recurrences():
    gemm = helper.make_node("Gemm", ["x", "w"], ["h"], transB=1)
    relu = helper.make_node("Relu", ["h"], ["r"])
    matmul = helper.make_node("MatMul", ["r", "v"], ["y"])
    found = model([gemm, relu, matmul], [("x", ["n", 10])], [("w", (20, 10)), ("v", (20, 5))])
    assert count_macs(found) == 200 + 100
    turn = helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])
    lstm = helper.make_node("LSTM", ["t", "w", "r"], ["y"], hidden_size=7)
    weights = [("w", (1, 28, 3)), ("r", (1, 28, 7))]
    assert count_macs(model([turn, lstm], [("x", ["n", 11, 3])], weights)) == 11 * 4 * 7 * (3 + 7)


def test_a_shape_that_is_not_known_gives_no_count():
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    assert count_macs(model([conv], [("x", ["n", 3, "height", "width"])], [("w", (8, 3, 3, 3))])) is None


def test_control_flow_counts_where_there_is_nothing_in_it_to_count():
    def branching(op):
        body = helper.make_graph([helper.make_node(op, ["x", "x"], ["z"])], "b", [], [])
        return helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)

    assert count_macs(model([branching("MatMul")], [("x", [4, 4]), ("c", [1])])) is None
    assert count_macs(model([branching("Add")], [("x", [4, 4]), ("c", [1])])) == 0


def test_a_free_length_counts_at_the_size_given():
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    proto = model([product], [("x", ["n", "length", 8])], [("w", (8, 4))])
    assert count_macs(proto) is None
    assert count_macs(proto, {"x": (10, 8)}) == 10 * 8 * 4
    assert count_macs(proto, {"x": (20, 8)}) == 20 * 8 * 4
    # What the file notes down of another size is not believed.
    proto.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 77, 4]))
    assert count_macs(proto, {"x": (10, 8)}) == 10 * 8 * 4


def test_shapes_behind_an_operator_that_only_the_runtime_knows():
    bits = {"K": 32, "N": 6, "bits": 4, "block_size": 32}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "q", "s"], ["h"], domain="com.microsoft", **bits),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    proto = model(nodes, [("x", ["n", "length", 32])], [("s", (6, 1)), ("w", (6, 4))])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((6, 1, 16), np.uint8), "q"))
    proto.ir_version = 10
    assert count_macs(proto, {"x": (5, 32)}) == 5 * 32 * 6 + 5 * 6 * 4
    # An operator that no one knows.
    proto.graph.node[0].op_type = "Unheard"
    assert count_macs(proto, {"x": (5, 32)}) is None


def test_the_model_is_left_as_it_was():
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    proto = model([conv], [("x", ["n", 3, 6, 6])], [("w", (8, 3, 3, 3))])
    before = proto.SerializeToString(deterministic=True)
    assert count_macs(proto) == 8 * 16 * 27
    assert proto.SerializeToString(deterministic=True) == before
