from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.half import Fp16
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]


@pytest.mark.parametrize("name", ["residual", "separable", "one-dimensional", "mlp", "patches", "lstm", "tokens"])
def test_file_halves_and_computes_the_same(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo(name)
    Fp16().apply(source, tmp_path / "a.onnx", vnni(inputs))
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"))
    before, after = open_session(source), open_session(tmp_path / "a.onnx")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    expected, got = before.predict(inputs), after.predict(inputs)
    assert got.dtype == np.float32
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.005
    weights = [x for x in onnx.load(tmp_path / "a.onnx").graph.initializer if len(x.dims) > 1 and x.data_type != 7]
    assert {x.data_type for x in weights} == {TensorProto.FLOAT16}
    if source.stat().st_size > 50_000:  # what is not weights weighs little
        assert (tmp_path / "a.onnx").stat().st_size < 0.65 * source.stat().st_size


def test_kernels_tell_that_nothing_runs_in_it_here(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    Fp16().apply(source, tmp_path / "a.onnx", vnni(inputs))
    found = open_session(tmp_path / "a.onnx").kernels()
    # ONNX Runtime's CPU provider has no float16 convolution on x86; where it has, they are counted.
    assert (found.precision, found.compute) == ("fp16", 6)
    assert len(found.left) == found.compute - found.low_precision
    assert set(found.left.values()) <= {"ONNX Runtime has no fp16 kernel for it here and casts to float32"}


def test_size_is_checked_on_a_model_of_some_size(zoo: Zoo) -> None:
    assert zoo("lstm")[0].stat().st_size > 50_000


def product(path: Path, weight: np.ndarray) -> Path:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
    ]
    other = np.full((4, 4), 1e-3, np.float32)
    tensors = [numpy_helper.from_array(weight.astype(np.float32), "w"), numpy_helper.from_array(other, "v")]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_weight_that_overflows_is_named(vnni: OnVnni, tmp_path: Path) -> None:
    source = product(tmp_path / "s.onnx", np.eye(4) * 70000)
    with pytest.raises(MethodError) as caught:
        Fp16().apply(source, tmp_path / "a.onnx", vnni((np.ones((4, 4), np.float32),)))
    assert str(caught.value) == (
        "weight 'w': holds 70000, and float16 ends at 65504; this model cannot be fp16; try int8"
    )
    assert [x.name for x in tmp_path.iterdir()] == ["s.onnx"]


def test_activation_that_overflows_stays_float32(vnni: OnVnni, tmp_path: Path) -> None:
    source = product(tmp_path / "s.onnx", np.eye(4) * 60000)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32) * 5
    step = Fp16().apply(source, tmp_path / "a.onnx", vnni((x,)))
    assert step.notes[1] == "Left in fp32, as a constant or an activation there exceeds 65504: first, second."
    got, expected = open_session(tmp_path / "a.onnx").predict((x,)), open_session(source).predict((x,))
    np.testing.assert_allclose(got, expected, rtol=5e-3, atol=1e-2)


def test_half_model_is_refused(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    Fp16().apply(source, tmp_path / "a.onnx", vnni(inputs))
    with pytest.raises(MethodError) as caught:
        Fp16().apply(tmp_path / "a.onnx", tmp_path / "b.onnx", vnni(inputs))
    assert str(caught.value) == (
        f"{tmp_path / 'a.onnx'}: the model has 16-bit weights already; give the original model"
    )


def test_model_without_weights_is_refused(vnni: OnVnni, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "s.onnx")
    with pytest.raises(MethodError) as caught:
        Fp16().apply(tmp_path / "s.onnx", tmp_path / "a.onnx", vnni((np.ones((2, 4), np.float32),)))
    assert str(caught.value) == "fp16: there is nothing to convert: no float32 weights"
