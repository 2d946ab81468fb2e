"""What is foretold is what happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from topologies import topology

from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.preview import preview_graph, preview_torch
from compressor.passes.registry import make_pass
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]


@pytest.mark.parametrize("name", ["residual", "patches", "lstm", "gru"])
@pytest.mark.parametrize("method", ["int8", "int8-static", "int8-dynamic", "int4", "smoothquant"])
def test_layers_foretold_are_those_that_run_in_it(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str, method: str
) -> None:
    source, inputs = zoo(name)
    (tmp_path / "work").mkdir()
    proto, previews = preview_graph(source, tmp_path / "work")
    assert proto is not None
    found = next(preview for preview in previews if preview.method == method)
    assert not found.refused
    settings = {"by_rule": True} if method == "int8" else {}
    make_pass(method, **settings).apply(source, tmp_path / "a.onnx", vnni(inputs))
    kernels = open_session(tmp_path / "a.onnx").kernels()
    assert len(found.touched) == kernels.low_precision
    assert len(found.touched) + len(found.left) == kernels.compute
    assert not found.touched.keys() & found.left.keys()


def test_reasons(zoo: Zoo, tmp_path: Path) -> None:
    proto, previews = preview_graph(zoo("patches")[0], tmp_path)
    assert proto is not None
    of = {preview.method: preview for preview in previews}
    assert of["int8"].touched["patch/Conv"] == "static int8 where it pays"
    assert of["int8"].touched["head/Gemm"] == "dynamic int8 where it pays"
    assert set(of["int8"].left.values()) == {"multiplies two activations"}
    assert of["int8-dynamic"].left["patch/Conv"] == "no dynamic int8 kernel worth running"
    assert of["int4"].left["patch/Conv"] == "no int4 weight-only kernel"
    assert of["smoothquant"].touched["head/Gemm"] == "smoothed, static int8"
    assert set(of["fp16"].touched.values()) == {"float16"}


def test_quantized_model_is_refused_by_all(zoo: Zoo, vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = zoo("mlp")
    make_pass("int4").apply(source, tmp_path / "a.onnx", vnni(inputs))
    (tmp_path / "work").mkdir()
    proto, previews = preview_graph(tmp_path / "a.onnx", tmp_path / "work")
    assert proto is None
    assert {preview.refused for preview in previews} == {
        "the model is quantized already: it holds MatMulNBits '0/Gemm'"
    }


def test_torch_methods() -> None:
    of = {preview.method: preview for preview in preview_torch(topology("residual"))}
    assert set(of) == {"prune", "prune-unstructured", "prune-2:4", "bf16"}
    assert set(of["bf16"].touched.values()) == {"bfloat16, for PyTorch to run"}
    assert of["prune"].touched
    assert all("units may go" in how for how in of["prune"].touched.values())
    assert not of["prune"].touched.keys() & of["prune"].left.keys()
    assert of["prune-unstructured"].touched.keys() == of["prune"].touched.keys() | of["prune"].left.keys()
