from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from rewriting_checks import check_same, model

from compressor.passes.int8_rewrites import convolve_norms, pool_pictures, spread_hard_activations, unfold_transposes

RNG = np.random.default_rng(0)
CONV = {"w": RNG.standard_normal((8, 3, 1, 1)).astype(np.float32), "b": RNG.standard_normal(8).astype(np.float32)}


def hard(*users: onnx.NodeProto, alpha: float = 1 / 6) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("HardSigmoid", ["c"], ["h"], name="hard", alpha=alpha, beta=0.5),
        *users,
    ]
    return model(nodes, CONV, ["n", 3, 5, 5])


@pytest.mark.parametrize("alpha", [1 / 6, 0.2, 1.5])
def test_hard_swish_is_spread(alpha: float) -> None:
    proto = hard(helper.make_node("Mul", ["c", "h"], ["y"], name="mul"), alpha=alpha)
    check_same(proto, lambda m: spread_hard_activations(m.graph), {"Conv": 1, "Add": 1, "Clip": 1, "Mul": 1})


def test_hard_sigmoid_is_spread() -> None:
    proto = hard(helper.make_node("Neg", ["h"], ["y"], name="neg"))
    check_same(proto, lambda m: spread_hard_activations(m.graph), {"Conv": 1, "Add": 1, "Clip": 1, "Neg": 1})


@pytest.mark.parametrize(
    "users",
    [
        [helper.make_node("Sub", ["c", "h"], ["y"], name="sub")],
        [
            helper.make_node("Mul", ["c", "h"], ["m"], name="mul"),
            helper.make_node("Add", ["m", "c"], ["y"], name="add"),
        ],
        [
            helper.make_node("Mul", ["c", "h"], ["m"], name="mul"),
            helper.make_node("Add", ["m", "h"], ["y"], name="add"),
        ],
    ],
    ids=["other operator", "convolution used again", "gate used again"],
)
def test_what_only_looks_like_hard_swish_is_left(users: list[onnx.NodeProto]) -> None:
    proto = hard(*users)
    before = proto.SerializeToString()
    spread_hard_activations(proto.graph)
    assert proto.SerializeToString() == before


def mean(axes: list[int], keep: int, shape: list[object]) -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean", keepdims=keep)
    return model([node], {"axes": np.array(axes, np.int64)}, shape)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [([2, 3], ["n", 2, 5, 4]), ([-1, -2], ["n", 2, 5, 4]), ([3, 2], ["n", 2, 5, 4]), ([2], ["n", 2, 5])],
)
@pytest.mark.parametrize("keep", [0, 1])
def test_mean_over_pictures_and_signals_becomes_pooling(axes: list[int], keep: int, shape: list[object]) -> None:
    expected = {"GlobalAveragePool": 1} if keep else {"GlobalAveragePool": 1, "Flatten": 1}
    check_same(mean(axes, keep, shape), lambda m: pool_pictures(m.graph), expected)


def test_mean_with_axes_as_an_attribute_becomes_pooling() -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], name="mean", axes=[2, 3], keepdims=0)
    proto = model([node], {}, ["n", 2, 5, 4])
    proto.opset_import[0].version = 17
    check_same(proto, lambda m: pool_pictures(m.graph), {"GlobalAveragePool": 1, "Flatten": 1})


@pytest.mark.parametrize(
    ("axes", "shape"), [([1, 2], ["n", 2, 5, 4]), ([2, 3], ["n", 2, 5, 4, 3]), ([1], ["n", 2]), ([1], ["n", 2, 5])]
)
@pytest.mark.parametrize("keep", [0, 1])
def test_other_means_are_left(axes: list[int], keep: int, shape: list[object]) -> None:
    check_same(mean(axes, keep, shape), lambda m: pool_pictures(m.graph), {"ReduceMean": 1})


def way_up(shape: tuple[int, ...] = (3, 5, 2, 2), bias: bool = True, **attributes: object) -> onnx.ModelProto:
    weights = {
        "w": RNG.standard_normal(shape).astype(np.float32),
        "b": RNG.standard_normal(shape[1]).astype(np.float32),
    }
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node("ConvTranspose", inputs, ["y"], name="up", **attributes)
    return model([node], weights if bias else {"w": weights["w"]}, ["n", 3, 4, 6])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution_whose_squares_do_not_overlap_is_unfolded(size: int, bias: bool) -> None:
    proto = way_up(
        (3, 5, size, size), bias, strides=[size, size], kernel_shape=[size, size], pads=[0] * 4, auto_pad="NOTSET"
    )
    check_same(proto, lambda m: unfold_transposes(m.graph), {"Conv": 1, "DepthToSpace": 1})


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((3, 5, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 5, 2, 2), {}),
        ((3, 5, 2, 2), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((3, 5, 2, 2), {"strides": [2, 2], "pads": [1, 0, 0, 0]}),
        ((3, 5, 2, 2), {"strides": [2, 2], "output_padding": [1, 1]}),
        ((3, 5, 2, 2), {"strides": [2, 2], "dilations": [2, 2]}),
        ((3, 5, 2, 3), {"strides": [2, 3]}),
        ((3, 2, 2, 2), {"strides": [2, 2], "group": 3}),
        ((3, 5, 2, 2), {"strides": [2, 2], "output_shape": [7, 11]}),
    ],
)
def test_other_transposed_convolutions_are_left(shape: tuple[int, ...], attributes: dict[str, object]) -> None:
    proto = way_up(shape, bias=False, **attributes)
    before = proto.SerializeToString()
    unfold_transposes(proto.graph)
    assert proto.SerializeToString() == before


NORM = {
    **{name: RNG.standard_normal(8).astype(np.float32) for name in ("scale", "shift", "mean")},
    "variance": np.linspace(0.1, 3, 8, dtype=np.float32),
}


def norm(source: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [source, *NORM], ["y"], name="norm", **attributes)


@pytest.mark.parametrize("shape", [["n", 3, 7], ["n", 3, 4, 5], ["n", 3, 4, 5, 2]])
def test_norm_behind_a_sum_becomes_a_convolution(shape: list[object]) -> None:
    weights = {**NORM, "w": RNG.standard_normal((8, 3, *[1] * (len(shape) - 2))).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "c"], ["s"], name="sum"),
        norm("s", epsilon=0.01),
    ]
    check_same(model(nodes, weights, shape), lambda m: convolve_norms(m.graph), {"Conv": 2, "Relu": 1, "Add": 1})


@pytest.mark.parametrize("kind", ["Identity", "Add", "Elu"])
def test_norm_of_what_is_not_all_int8_is_left(kind: str) -> None:
    """Its channels may differ too much for one range: that is what a norm of the input is for."""
    other = {"Add": ["x", "c"], "Elu": ["c"], "Identity": ["x"]}[kind]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node(kind, other, ["s"], name="other"),
        norm("s"),
    ]
    proto = model(nodes, {**NORM, "w": RNG.standard_normal((8, 8, 1, 1)).astype(np.float32)}, ["n", 8, 4, 5])
    before = proto.SerializeToString()
    convolve_norms(proto.graph)
    assert proto.SerializeToString() == before
