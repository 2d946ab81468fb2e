"""Tiny causal language models with random weights, and a tokenizer of single bytes, for the tests of decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

VOCABULARY = 300
TEXT = "A scale per block keeps small weights apart; the rest is rounding, and rounding is cheap. " * 12


def save_llama(folder: Path, *, tied: bool = False, dtype: str = "bfloat16", shard: str = "60KB", **more: Any) -> Path:
    """Two layers of Llama with grouped heads, in several shards."""
    import torch

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.06,
        **more,
    )
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    return save_tokenizer(folder)


def save_gpt2(folder: Path) -> Path:
    """Two layers of GPT-2, whose weights are stored transposed, under the names of the model without a head."""
    import torch

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=512)
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.save_pretrained(folder)
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(folder)
    return save_tokenizer(folder)


def save_tokenizer(folder: Path) -> Path:
    """One token per byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder
