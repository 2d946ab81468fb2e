"""What bench copies and how it names it; test_bench.py has the files as its users give them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.bench_files import copy_model, unique_name
from compressor.errors import ModelError, RuntimeUnavailableError
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.bf16 import Bf16
from compressor.results import ModelSummary, TensorSpec
from compressor.runtimes.registry import open_session
from compressor.torchao_file import GRAPH

ANY = {"hf_task": None, "trust_remote_code": False}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the method bf16 writes."""
    specs = (TensorSpec("x", "float32", (None, 8)),)
    model = TorchModel(
        ModelSummary("m", "m", "00", 1, "module", 2, specs), nn.Linear(8, 2).eval(), (torch.ones(2, 8),), specs, ("y",)
    )
    target = tmp_path_factory.mktemp("bf16") / "model.safetensors"
    Bf16().apply(model, target, Context(task=None, cpu_features=("avx512_bf16",)))
    return target


def test_an_onnx_file_is_copied_and_bears_the_users_own_identity(chain: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    artifact, path = copy_model(chain, None, place, **ANY)
    assert path == place / "model.onnx"
    assert (artifact.path, artifact.sha256) == (str(chain), hashlib.sha256(chain.read_bytes()).hexdigest())
    assert artifact.size_bytes == chain.stat().st_size
    chain.unlink()
    assert open_session(path).info.name == "onnxruntime"


def test_what_a_method_for_pytorch_wrote_is_copied_whole(half: Path, tmp_path: Path) -> None:
    artifact, path = copy_model(half, "torch", tmp_path, **ANY)
    assert (artifact.format, path) == ("safetensors", tmp_path / half.name)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([GRAPH, half.name])
    assert all((tmp_path / name).read_bytes() == (half.parent / name).read_bytes() for name in (GRAPH, half.name))


def test_what_a_method_for_pytorch_wrote_runs_there_only_and_not_without_its_graph(half: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError) as refused:
        copy_model(half, "onnxruntime", tmp_path, **ANY)
    assert str(refused.value) == f"{half}: runs on torch and torch-compile only"
    lone = tmp_path / "lone" / half.name
    lone.parent.mkdir()
    lone.write_bytes(half.read_bytes())
    with pytest.raises(ModelError) as missing:
        copy_model(lone, "torch", tmp_path, **ANY)
    assert str(missing.value) == f"{lone.parent / GRAPH}: is missing; keep it beside {half.name}"


@pytest.mark.parametrize(
    ("file", "runtime", "files", "taken", "name"),
    [
        ("a/m.onnx", None, ["a/m.onnx", "b/n.onnx"], [], "m.onnx"),
        ("a/m.onnx", None, ["a/m.onnx", "b/m.onnx"], [], "a/m.onnx"),
        ("a/m.onnx", None, ["a/m.onnx", "a/m.onnx"], ["m.onnx"], "m.onnx (2)"),
        ("a/m.onnx", "onnxruntime", ["a/m.onnx"], [], "m.onnx"),
        ("a/m.onnx", "openvino", ["a/m.onnx"], [], "m.onnx on openvino"),
        ("a/m.pt2", "onnxruntime", ["a/m.pt2"], [], "m.pt2 on onnxruntime"),
    ],
)
def test_names_tell_files_and_runtimes_apart(
    file: str, runtime: str | None, files: list[str], taken: list[str], name: str, tmp_path: Path
) -> None:
    assert unique_name(tmp_path / file, runtime, [tmp_path / each for each in files], taken) == name
