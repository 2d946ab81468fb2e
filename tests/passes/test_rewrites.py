from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from rewriting_checks import check_same, model

from compressor.errors import MethodError
from compressor.passes.rewrites import prepare, split_gemms

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemms_that_share_a_weight_are_split(transposed: int) -> None:
    weights = {"w": RNG.standard_normal((6, 6)).astype(np.float32), "b": RNG.standard_normal(6).astype(np.float32)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="one", transB=transposed),
        helper.make_node("Gemm", ["h", "w"], ["y"], name="two", transB=transposed),
    ]
    proto = model(nodes, weights, ["n", 6])
    check_same(proto, lambda m: split_gemms(m, {"one", "two"}), {"MatMul": 2, "Add": 1})
    assert [node.name for node in proto.graph.node] == ["one", "one.bias", "two"]
    assert len(proto.graph.initializer) == 2


def test_preparing_folds_constants_and_names_every_node(tmp_path: Path) -> None:
    weights = {"w": RNG.standard_normal((4, 6)).astype(np.float32)}
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Neg", ["r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    onnx.save(model(nodes, weights, ["n", 6]), tmp_path / "m.onnx")
    proto = prepare(tmp_path / "m.onnx", tmp_path)
    names = [node.name for node in proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names) == 4
    assert {tuple(x.dims) for x in proto.graph.initializer} == {(6, 4)}


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DynamicQuantizeLinear"])
def test_quantized_model_is_refused(tmp_path: Path, kind: str) -> None:
    inputs = ["x", "s"] if kind == "QuantizeLinear" else ["x"]
    outputs = ["y"] if kind == "QuantizeLinear" else ["y", "scale", "zero"]
    weights = {"s": np.float32(0.1)} if kind == "QuantizeLinear" else {}
    proto = model([helper.make_node(kind, inputs, outputs, name="q")], weights, ["n", 4])  # type: ignore[arg-type]
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(MethodError) as caught:
        prepare(tmp_path / "m.onnx", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: the model is quantized already: it holds {kind} 'q'; give the original model"
    )
