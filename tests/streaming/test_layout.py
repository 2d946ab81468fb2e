from __future__ import annotations

import json
from pathlib import Path

import pytest
from decoders import save_gpt2, save_llama
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compressor.errors import MethodError, ModelError, RecipeError
from compressor.model.checkpoint import open_checkpoint
from compressor.model.packing import Format
from compressor.model.quantized import empty_model
from compressor.rules import parse_rules
from compressor.streaming.layout import Piece, plan_pieces, plan_shards

INT4 = Format(4, 32, False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def pieces_of(folder: Path, *rules: str) -> tuple[tuple[Piece, ...], tuple[str, ...]]:
    return plan_pieces(empty_model(folder), open_checkpoint(folder), INT4, parse_rules(rules), folder)


def quantized(pieces: tuple[Piece, ...]) -> set[str]:
    return {piece.name for piece in pieces if piece.quantized}


def test_linear_layers_and_nothing_else(llama: Path) -> None:
    pieces, notes = pieces_of(llama)
    kinds = {name.split(".")[-2] for name in quantized(pieces)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(quantized(pieces)) == 14
    assert len(pieces) == len(open_checkpoint(llama))
    assert notes == (
        "14 of 21 tensors are quantized, 63.6% of the weights.",
        "Copied as they are: lm_head.weight, model.embed_tokens.weight, norms and biases.",
    )


def test_rules_go_before_the_one_on_the_head(llama: Path) -> None:
    assert "lm_head.weight" in quantized(pieces_of(llama, "include *")[0])
    assert quantized(pieces_of(llama, "include lm_head")[0]) == {"lm_head.weight"}
    left = quantized(pieces_of(llama, "exclude model.layers.0.*")[0])
    assert len(left) == 7
    assert not any(name.startswith("model.layers.0.") for name in left)


def test_a_shared_weight_is_never_quantized(tmp_path: Path) -> None:
    folder = save_llama(tmp_path, tied=True)
    assert "lm_head.weight" not in {piece.name for piece in pieces_of(folder, "include *")[0]}
    with pytest.raises(MethodError, match="no linear layer with float weights is left to quantize"):
        pieces_of(folder, "include lm_head")


def test_a_rule_that_matches_nothing(llama: Path) -> None:
    with pytest.raises(RecipeError, match="rule 'exclude heads': matches no layer"):
        pieces_of(llama, "exclude heads")


def test_names_without_the_prefix_and_transposed_weights(tmp_path: Path) -> None:
    """GPT-2's published checkpoint is of the model without a head, and its layers are ``(inputs, outputs)``."""
    folder = save_gpt2(tmp_path)
    assert "h.0.attn.c_attn.weight" in open_checkpoint(folder)
    pieces = {piece.name: piece for piece in pieces_of(folder)[0]}
    attention = pieces["transformer.h.0.attn.c_attn.weight"]
    assert attention.quantized
    assert attention.transposed
    assert attention.parts[0].shape == (144, 32)  # 48 inputs fill two blocks of 32, two levels a byte
    assert not pieces["transformer.wte.weight"].quantized


def test_tensors_without_a_place_are_named(llama: Path, tmp_path: Path) -> None:
    tensors = {}
    for file in llama.glob("*.safetensors"):
        tensors.update(load_file(file))
    save_file({**tensors, "extra.weight": tensors["lm_head.weight"].clone()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    notes = pieces_of(tmp_path)[1]
    assert notes[-1] == "Left out, as LlamaForCausalLM has no place for them: extra.weight (1 in all)."


def test_a_config_with_fewer_layers(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ModelError, match=r"describes fewer layers than it holds weights of, e\.g\. model\.layers\.1\."):
        pieces_of(tmp_path)


def test_shapes_that_disagree_with_the_config(llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 301}))
    with pytest.raises(ModelError) as caught:
        pieces_of(tmp_path)
    assert caught.value.what.endswith("is [300, 64], and LlamaForCausalLM wants [301, 64]")


@pytest.mark.parametrize("limit", [1, 20_000, 10**9])
def test_shards_keep_to_the_limit_and_to_the_format(llama: Path, tmp_path: Path, limit: int) -> None:
    pieces, _ = pieces_of(llama)
    shards = plan_shards(pieces, limit)
    assert [piece for shard in shards for piece in shard.pieces] == list(pieces)
    for shard in shards:
        assert len(shard.pieces) == 1 or sum(piece.size_bytes for piece in shard.pieces) <= limit
        path = tmp_path / shard.file
        path.write_bytes(shard.header + bytes(shard.size_bytes - len(shard.header)))
        with safe_open(path, "numpy") as file:  # the library checks header, gaps and length
            assert set(file.keys()) == set(shard.offsets)
        assert all(offset % 2 == 0 for name, offset in shard.offsets.items() if name.endswith(".scale"))
    assert len(shards) == {1: len(pieces), 10**9: 1}.get(limit, len(shards))
