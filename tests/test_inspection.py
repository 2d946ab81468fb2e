from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from chains import save_chain
from click.testing import CliRunner
from tiny_transformers import save_tiny

from compressor.cli import cli
from compressor.inspection import inspect_model
from compressor.passes.registry import method_names, works_on_torch, writes_torch_file


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["inspect", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    assert max(len(line) for line in done.output.splitlines()) <= 80
    return done.output


def test_layers_their_costs_and_what_each_method_would_do(chain: Path) -> None:
    found = inspect_model(chain)
    assert [(layer.name, layer.parameters, layer.flops) for layer in found.layers] == [
        ("matmul_0", 4096, 8192), ("matmul_1", 4096, 8192),
    ]  # fmt: skip
    assert found.flops == 2 * 8192
    on_graph = [name for name in method_names() if not (works_on_torch(name) or writes_torch_file(name))]
    assert sorted(one.method for one in found.previews) == on_graph
    assert chain.parent.exists()
    assert [path.name for path in chain.parent.iterdir()] == ["chain.onnx"]


def test_table_is_capped_and_json_is_not(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "deep.onnx", width=8, layers=60)
    text = shown(str(path))
    assert "FLOPs       7.68 k for one example" in text
    assert "matmul_39 " in text
    assert "matmul_40 " not in text
    assert "… and 20 more layers: --all shows them, --json holds them" in text
    line = "+ 60 layers, dynamic int8 where it pays: matmul_0, matmul_1, matmul_2, matmul_3 and 56 more"
    assert line in " ".join(text.split())
    assert "matmul_59 " in shown(str(path), "--all")
    held = json.loads(shown_json(path))
    assert len(held["graph"]) == 60
    assert len(held["methods"]["int4"]["touched"]) == 60
    assert (held["flops"], held["parameters"]) == (60 * 128, 60 * 64)


def shown_json(path: Path) -> str:
    return CliRunner().invoke(cli, ["inspect", str(path), "--json"], catch_exceptions=False).output


def test_model_whose_length_is_free(tmp_path: Path) -> None:
    proto = onnx.load(save_chain(tmp_path / "a.onnx"))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        sizes = value.type.tensor_type.shape
        sizes.ClearField("dim")
        sizes.dim.add(dim_param="batch")
        sizes.dim.add(dim_param="length")
        sizes.dim.add(dim_value=64)
    onnx.save(proto, tmp_path / "b.onnx")
    found = inspect_model(tmp_path / "b.onnx")
    assert found.flops is None
    assert found.notes[-1] == "FLOPs depend on sizes that the file leaves free, or on control flow."


def test_a_text_model_is_counted_at_the_length_that_texts_get(tmp_path: Path) -> None:
    found = inspect_model(save_tiny("bert", tmp_path / "bert"))
    tokens, width, inner, blocks = 64, 32, 64, 2
    in_block = tokens * (4 * width**2 + 2 * width * inner) + 2 * tokens**2 * width
    assert found.flops == 2 * (blocks * in_block + width**2 + 2 * width)
    assert found.notes[-1] == "FLOPs are for a text of 64 tokens."
    ways = {one.method: one for one in found.previews}
    assert "/bert/encoder/layer.0/intermediate/dense/MatMul" in ways["int8"].touched
    assert "hf.bert.encoder.layer.0.intermediate.dense" in ways["prune"].touched


def test_weights_without_their_architecture(tmp_path: Path) -> None:
    import torch

    torch.save({"head.weight": torch.zeros(3, 4)}, tmp_path / "state.pt")
    found = inspect_model(tmp_path / "state.pt")
    assert (found.layers, found.previews, found.flops) == ((), (), None)
    assert found.notes[-1].startswith("FLOPs, and what the methods would do, are not known: ")
    text = shown(str(tmp_path / "state.pt"))
    assert "head.weight" in text


def test_pickled_module_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    (tmp_path / "m.pt").write_bytes(pickle.dumps(Payload()))
    done = CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.pt")])
    assert done.exit_code != 0
    assert not (tmp_path / "ran").exists()
