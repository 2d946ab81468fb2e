"""Rules on the methods that turn an ONNX file into another: the same for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor.errors import CompressorError, MethodError, RecipeError
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.registry import make_pass, method_class, method_names, works_on_torch, writes_torch_file
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]

METHODS = [name for name in method_names() if not (works_on_torch(name) or writes_torch_file(name))]


def made(name: str, rules: tuple[str, ...], **settings: object) -> object:
    return make_pass(name, rules=rules, **({"by_rule": True} if name == "int8" else {}), **settings)


@pytest.mark.parametrize("name", METHODS)
def test_excluded_layer_keeps_its_weights(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo("patches")
    step = made(name, ("exclude head",)).apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert "Left in fp32 by the rules: head/Gemm." in step.notes
    assert step.settings["rules"] == "exclude head"
    kept = next(tensor for tensor in onnx.load(source).graph.initializer if tensor.name == "head.weight")
    made_of = {tensor.name: tensor for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert onnx.numpy_helper.to_array(made_of["head.weight"]).dtype == np.float32
    assert np.array_equal(onnx.numpy_helper.to_array(made_of["head.weight"]), onnx.numpy_helper.to_array(kept))
    expected, got = open_session(source).predict(inputs), open_session(tmp_path / "a.onnx").predict(inputs)
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < 0.2


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("rules", "kind", "message"),
    [
        (("exclude heads",), RecipeError, "rule 'exclude heads': matches no layer; nearest names: head/Gemm"),
        (("exclude *",), MethodError, "{}: the rules leave no {}"),
        (("exlude head",), RecipeError, "rule 'exlude head': a rule cannot start with 'exlude'"),
    ],
    ids=["nothing", "everything", "misspelt"],
)  # fmt: skip
def test_rules_that_cannot_be_meant(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str, rules: tuple[str, ...], kind: type[CompressorError], message: str
) -> None:
    source, inputs = zoo("patches")
    with pytest.raises(kind) as caught:
        made(name, rules).apply(source, tmp_path / "a.onnx", vnni(inputs))
    what = {"fp16": "layer to convert", "smoothquant": "matrix product to quantize"}.get(name, "layer to quantize")
    assert str(caught.value).startswith(message.format(name, what))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in method_names() if hasattr(method_class(name), "rules")])
def test_a_text_is_no_list_of_rules(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_pass(name, rules="exclude head")
    assert str(caught.value) == "rules 'exclude head': is one text, not a list; write ['exclude head']"


def test_rules_say_how_a_layer_becomes_int8(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    plain = made("int8", ()).apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert plain.notes[0] == "Static int8 (ranges from calibration): 5 Conv, 1 Gemm."
    step = made("int8", ("dynamic * gemm",)).apply(source, tmp_path / "b.onnx", vnni(inputs))
    assert step.notes[0] == "Static int8 (ranges from calibration): 5 Conv."
    found = open_session(tmp_path / "b.onnx").kernels()
    assert (found.by_op["QLinearConv"], found.by_op["DynamicQuantizeMatMul"]) == (5, 1)
    source, inputs = zoo("patches")
    made("int8", ("static head",)).apply(source, tmp_path / "c.onnx", vnni(inputs))
    found = open_session(tmp_path / "c.onnx").kernels()
    assert (found.by_op["QGemm"], found.by_op["DynamicQuantizeMatMul"]) == (1, 4)


def test_a_way_that_a_layer_does_not_have(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    with pytest.raises(MethodError) as caught:
        made("int8", ("dynamic *",)).apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert str(caught.value) == (
        "int8: Conv '0/Conv' has no dynamic int8 kernel worth running; "
        "add kinds to the rule, such as 'dynamic * matmul gemm'"
    )
    with pytest.raises(RecipeError, match="a rule cannot start with 'dynamic'"):
        make_pass("int8-static", rules=("dynamic head",))


def test_int8_runs_around_what_is_excluded(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("residual")
    step = made("int8", ("exclude 2.body.*",)).apply(source, tmp_path / "a.onnx", vnni(inputs))
    assert step.settings["fp32_layers"] == "2.body.0/Conv,2.body.3/Conv"
    found = open_session(tmp_path / "a.onnx").kernels()
    assert (found.low_precision, found.compute) == (4, 6)
