"""Graphs as users have them and as ONNX Runtime's quantizer and converter take them wrongly, silently or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.passes.rewrites import prepare
from compressor.runtimes.registry import open_session

OnVnni = Callable[[Arrays], Context]
Weights = dict[str, NDArray[Any]]
ERRORS = {"int4": 0.2, "fp16": 0.005}
"""Largest relative error by method; int8's is 0.05."""


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names are parted by blanks; ``-`` is an input that is left out."""
    return helper.make_node(op, [x.strip("-") for x in inputs.split()], outputs.split(), **attributes)


def model(
    nodes: list[onnx.NodeProto], weights: Weights, shape: tuple[int, ...], outputs: str = "y", opset: int = 17
) -> onnx.ModelProto:
    """A model that takes ``x``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8 if opset > 11 else 4)


def branches(reads: str, name: str) -> dict[str, onnx.GraphProto]:
    """What an If does with an activation from outside."""
    made = {}
    for branch, op in (("then_branch", "Identity"), ("else_branch", "Neg")):
        value = helper.make_tensor_value_info(f"{name}.{op}", TensorProto.FLOAT, None)
        made[branch] = helper.make_graph([node(op, reads, value.name)], branch, [], [value])
    return made


def products(nodes: list[onnx.NodeProto], more: Weights | None = None, **options: Any) -> onnx.ModelProto:
    weights = {"w": numbers(32, 32) / 6, "b": numbers(32), "v": numbers(32, 8) / 6, **(more or {})}
    return model([*nodes, node("MatMul", "a v", "y", name="last")], weights, (32,), **options)


def convolutions(nodes: list[onnx.NodeProto], more: Weights | None = None, **options: Any) -> onnx.ModelProto:
    weights = {"w": numbers(8, 8, 3, 3) / 8, "b": numbers(8), "v": numbers(4, 8, 1, 1) / 3, **(more or {})}
    first = node("Conv", "x w b", "c", name="first", pads=[1, 1, 1, 1])
    return model([first, *nodes, node("Conv", "a v", "y", name="last")], weights, (8, 6, 6), **options)


def weights_as_inputs() -> onnx.ModelProto:
    """As files of operator set 8 and before have to, and many later ones do; the weights come first."""
    proto = products([node("Gemm", "x w b", "a", name="first")])
    own = proto.graph.input.pop()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    proto.graph.input.append(own)
    return proto


ALWAYS = [node("ReduceMax", "x", "top", keepdims=0), node("Greater", "top least", "yes")]
"""A condition that no tool can fold."""
LEAST = {"least": np.array(-1e4, np.float32)}


def norm_that_a_branch_reads() -> onnx.ModelProto:
    nodes = [
        *ALWAYS,
        node("LayerNormalization", "x s b", "l", name="norm"),
        node("MatMul", "l w", "m", name="product"),
        node("If", "yes", "i", name="if", **branches("l", "i")),
        node("Sub", "m i", "a", name="difference"),
    ]
    loud = np.where(np.arange(32) == 3, 40, 1).astype(np.float32)
    return products(nodes, {"s": loud, **LEAST})


def relu_that_a_branch_reads() -> onnx.ModelProto:
    nodes = [*ALWAYS, node("Relu", "c", "r", name="relu"), node("If", "yes", "i", name="if", **branches("r", "i"))]
    return convolutions([*nodes, node("Add", "i r", "a", name="sum")], LEAST)


def double_use() -> onnx.ModelProto:
    """One weight, read as it is and turned around; its rows and columns are of all sizes."""
    nodes = [node("Gemm", "x w b", "h", name="first", transB=1), node("Gemm", "h w b", "a", name="second")]
    sizes = np.logspace(-1, 1, 32, dtype=np.float32)
    return products(nodes, {"w": numbers(32, 32) * sizes * sizes[::-1, None] / 6})


def old(opset: int) -> onnx.ModelProto:
    pool = node("MaxPool", "r", "a", name="pool", kernel_shape=[2, 2], strides=[2, 2])
    return convolutions([node("Relu", "c", "r", name="relu"), pool], opset=opset)


def transposed(groups: int) -> onnx.ModelProto:
    spread = node("ConvTranspose", "c t u", "r", name="spread", strides=[2, 2], group=groups)
    more = {"t": numbers(8, 8 // groups, 2, 2) / 4, "u": numbers(8)}
    return convolutions([spread, node("Relu", "r", "a", name="relu")], more)


# The model, methods, and int8 operators of all that do arithmetic, per method.
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, tuple[int, int]]]] = {
    "a bias that is left out": (
        lambda: products([node("Gemm", "x w -", "a", name="first")]),
        {"int8-dynamic": (2, 2), "int4": (2, 2)},
    ),
    "a depthwise bias that is left out": (
        lambda: convolutions([node("Conv", "c d -", "a", name="depthwise", group=8)], {"d": numbers(8, 1, 3, 3)}),
        {"int8-static": (3, 3)},
    ),
    "a Gemm that scales": (
        lambda: products([node("Gemm", "x w b", "a", name="first", alpha=0.3, beta=2.0)]),
        {"int8-static": (1, 2)},
    ),
    "a bias of one number": (
        lambda: products([node("Gemm", "x w k", "a", name="first")], {"k": np.array(0.3, np.float32)}),
        {"int8-static": (2, 2), "smoothquant": (2, 2)},
    ),
    "a weight of three axes": (
        lambda: convolutions(
            [node("Reshape", "c s", "r"), node("MatMul", "r t", "p", name="product"), node("Reshape", "p u", "a")],
            {"t": numbers(8, 36, 36) / 6, "s": np.array([0, 8, 1, 36]), "u": np.array([0, 8, -1, 6])},
        ),
        {"int8-static": (2, 3)},
    ),
    "a weight read along both axes": (double_use, {"int8-static": (3, 3)}),
    "a weight of no elements": (
        lambda: products(
            [
                node("MatMul", "x w", "m", name="first"),
                node("MatMul", "x e", "n", name="empty"),
                node("Concat", "m n", "a", axis=1),
            ],
            {"e": np.zeros((32, 0), np.float32)},
        ),
        {"int8-static": (2, 3), "int8-dynamic": (2, 3), "smoothquant": (2, 3)},
    ),
    "weights among the inputs": (
        weights_as_inputs,
        {"int8-dynamic": (2, 2), "int8-static": (2, 2), "int4": (2, 2), "smoothquant": (2, 2), "fp16": (0, 2)},
    ),
    "a transposed convolution in groups": (lambda: transposed(4), {"int8-static": (2, 3)}),
    "an activation that is an output": (
        lambda: convolutions([node("Relu", "c", "a", name="relu")], outputs="c y"),
        {"int8-static": (2, 2)},
    ),
    "a Relu that a branch reads": (relu_that_a_branch_reads, {"int8-static": (2, 2)}),
    "a norm that a branch reads": (norm_that_a_branch_reads, {"smoothquant": (2, 2)}),
    "an operator of ONNX Runtime's own": (
        lambda: convolutions([node("Gelu", "c", "a", name="gelu", domain="com.microsoft")]),
        {"int8-static": (2, 2), "fp16": (0, 2)},
    ),
    "operator set 9": (lambda: old(9), {"int8-static": (2, 2)}),
    "operator set 12": (lambda: old(12), {"int8-static": (2, 2)}),
    "a mask of the lowest float32": (
        lambda: products(
            [
                node("MatMul", "x w", "h", name="first"),
                node("Greater", "x zero", "seen"),
                node("Where", "seen h lowest", "m"),
                node("Softmax", "m", "a"),
            ],
            {"zero": np.array(0, np.float32), "lowest": np.array(np.finfo(np.float32).min)},
        ),
        {"fp16": (0, 2)},
    ),
    "outputs beyond float16": (
        lambda: products([node("MatMul", "x w", "h", name="first"), node("Mul", "h k", "a")], {"k": np.float32([3e5])}),
        {"fp16": (0, 2)},
    ),
}


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name, (_, counts) in CASES.items() for method in counts]
)
def test_odd_graph(name: str, method: str, vnni: OnVnni, tmp_path: Path) -> None:
    build, counts = CASES[name]
    onnx.save(build(), tmp_path / "m.onnx")
    source = open_session(tmp_path / "m.onnx")
    (spec,) = source.inputs
    data = (numbers(64, *spec.shape[1:], seed=1),)
    make_pass(method).apply(tmp_path / "m.onnx", tmp_path / "out.onnx", vnni(data))
    made = open_session(tmp_path / "out.onnx")
    assert made.inputs == source.inputs
    kernels = made.kernels()
    assert (kernels.low_precision, kernels.compute) == counts[method]
    for expected, found in zip(source.run(data), made.run(data), strict=True):
        assert np.isfinite(found).all()
        assert np.linalg.norm(found - expected) <= ERRORS.get(method, 0.05) * np.linalg.norm(expected)


def test_an_operator_set_that_cannot_be_brought_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx's converter is made to fail: it knows how to bring up nearly all that it ever wrote."""

    def fail(*_: object) -> None:
        raise RuntimeError("No Adapter For\nScan")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fail)
    onnx.save(old(9), tmp_path / "m.onnx")
    with pytest.raises(MethodError) as caught:
        prepare(tmp_path / "m.onnx", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: its operator set is 9, and onnx cannot bring it up to 13: No Adapter For Scan; "
        "export it anew with operator set 13 or later"
    )
