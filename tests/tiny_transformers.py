"""Hugging Face folders of tiny models with random weights, tokenizers and processors, as ``save_pretrained`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compressor.model.hf_load import quiet_transformers

WORDS = [
    *("good", "bad", "fine", "poor", "a", "the", "film", "was", "is", "very", "not", "plot", "actor", "end", "scene"),
    *("music", "old", "new", "long", "short", "who", "where", "what", "red", "blue", "green", "car", "house", "tree"),
    *("river", "north", "south"),
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *WORDS, "##s", "##er"]
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
LABELS = {"id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}


def tiny(name: str) -> Any:
    """Build a model with random weights, the same every time.

    Args:
        name: One of :data:`MODELS`.
    """
    import torch

    with quiet_transformers() as transformers:
        family, config = MODELS[name]
        kind = getattr(transformers, family)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind(kind.config_class(**config))
            with torch.no_grad():
                for parameter in model.parameters():
                    # Biases start at zero, all alike; those of a trained model differ.
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        return model.eval()


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {**SIZES, **LABELS}),
    "distilbert": (
        "DistilBertForTokenClassification",
        {
            "vocab_size": len(VOCABULARY),
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
            **LABELS,
        },
    ),
    "roberta": ("RobertaForQuestionAnswering", {**SIZES, "pad_token_id": 0}),
    "albert": ("AlbertForMaskedLM", {**SIZES, "embedding_size": 16}),
    "minilm": ("BertModel", SIZES),
    "vit": (
        "ViTForImageClassification",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
            **LABELS,
        },
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", **LABELS},
    ),
    "wav2vec2": (
        "Wav2Vec2ForSequenceClassification",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "conv_dim": (16, 16, 16),
            "conv_kernel": (10, 8, 8),
            "conv_stride": (5, 8, 8),
            "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "classifier_proj_size": 16,
            **LABELS,
        },
    ),
    "whisper": (
        "WhisperForAudioClassification",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "classifier_proj_size": 16,
            "pad_token_id": 0,
            **LABELS,
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "llama": ("LlamaForCausalLM", {**SIZES, "num_key_value_heads": 2}),
}


def save_tiny(name: str, folder: Path) -> Path:
    """Save a tiny model as a folder, with what reads data for it."""
    with quiet_transformers():
        tiny(name).save_pretrained(folder)
    if name in ("vit", "resnet"):
        save_image_processor(folder)
    elif name == "wav2vec2":
        about = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000, "do_normalize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(about))
    elif name != "whisper":
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a word-piece tokenizer over :data:`VOCABULARY`."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    with quiet_transformers() as transformers:
        transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)


def save_image_processor(folder: Path, side: int = 32) -> None:
    """Save a processor that makes pictures of one size."""
    about = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": side, "width": side},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
