"""Tiny Hugging Face models with random weights: as folders that ``save_pretrained`` writes, with tokenizers and
processors, and as the loader gives them, without its look-ups; and data that they take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressor.model.base import Arrays, TorchModel
from compressor.model.hf_load import quiet_transformers
from compressor.model.huggingface import HuggingFaceModule
from compressor.results import ModelSummary, TensorSpec

transformers = pytest.importorskip("transformers")

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
    with quiet_transformers():
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


# --- as the loader gives them --------------------------------------------------------------------------------------

LENGTH, FILLED = 10, 7
"""Tokens of a text, and how many of them are not padding."""

_TEXT = ("input_ids", "attention_mask")
_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "LMHeadModel": "text-generation-with-past",
    "ForCausalLM": "text-generation-with-past",
}
_LAYERS = {"distilbert": "n_layers", "gpt2": "n_layer"}
_MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "bert words": ("BertForTokenClassification", {**SIZES, **LABELS}),
    "bert answers": ("BertForQuestionAnswering", SIZES),
    "roberta classes": ("RobertaForSequenceClassification", {**SIZES, **LABELS, "pad_token_id": 0}),
}


def small(name: str, layers: int = 2, *, free: bool = True) -> TorchModel:
    """A model of :data:`tiny_transformers.MODELS` with random weights, the same every time.

    Without free axes, which take most of the time of tracing, its inputs have the sizes of the example.
    """
    family, config = {**MODELS, **_MORE}[name]
    kind = getattr(transformers, family)
    settings = {**config, "initializer_range": 0.2}
    if name != "resnet":
        settings[_LAYERS.get(name, "num_hidden_layers")] = layers
    if name == "wav2vec2":
        settings |= {"conv_stride": (5, 4, 4), "mask_time_length": 2}  # for short sounds
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = kind(kind.config_class(**settings))
        with torch.no_grad():
            for parameter in hf.parameters():
                if parameter.ndim == 1:  # zeros and ones, which hide what is lost
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return wrapped(hf, free=free)


def wrapped(hf: Any, *, free: bool = True) -> TorchModel:
    """A ``transformers`` model as the loader gives it."""
    family = type(hf).__name__
    task = next((task for end, task in _TASKS.items() if family.endswith(end)), "feature-extraction")
    if hf.config.model_type == "wav2vec2":
        task = "audio-classification"
    columns = data(hf, 2)
    names = _names(hf)
    specs = []
    for name, x in zip(names, columns, strict=True):
        lengths = (0, 1) if x.ndim == 2 else (0, 2) if "past" in name else (0,)
        shape = tuple(None if free and axis in lengths else size for axis, size in enumerate(x.shape))
        specs.append(TensorSpec(name, x.dtype.name, shape))
    outputs = {"question-answering": ("start_logits", "end_logits"), "feature-extraction": ("last_hidden_state",)}
    present = [name.replace("past_key_values", "present") for name in names if "past" in name]
    module = HuggingFaceModule(hf, task, names, [*outputs.get(task, ("logits",)), *present])
    summary = ModelSummary("small", "small", "Hugging Face folder", "0" * 64, 1, None, tuple(specs))
    examples = tuple(torch.from_numpy(x) for x in columns)
    return TorchModel("small", module.eval().requires_grad_(False), examples, tuple(specs), summary)


def data(hf: Any, count: int, seed: int = 0) -> Arrays:
    """Examples of a model's inputs: texts that end in padding, noise, or pictures of noise."""
    draw = np.random.default_rng(seed)
    if hf.main_input_name == "pixel_values":
        side = getattr(hf.config, "image_size", 32)
        return (draw.standard_normal((count, 3, side, side)).astype(np.float32),)
    if hf.main_input_name == "input_values":
        return (draw.standard_normal((count, 400)).astype(np.float32),)
    mask = np.ones((count, LENGTH), np.int64)
    mask[:, FILLED:] = 0
    found: list[Any] = [draw.integers(5, hf.config.vocab_size, (count, LENGTH)) * mask, mask]
    for _ in _names(hf)[2:]:
        heads = getattr(hf.config, "num_key_value_heads", hf.config.num_attention_heads)
        size = getattr(hf.config, "head_dim", hf.config.hidden_size // hf.config.num_attention_heads)
        found.append(np.zeros((count, heads, 0, size), np.float32))
    return tuple(found)


def answer(model: TorchModel, module: nn.Module | None = None) -> torch.Tensor:
    """All that a model says of its example, in one row."""
    with torch.no_grad():
        found = (module or model.module)(*model.example_inputs)
    tensors = found if isinstance(found, tuple) else (found,)
    return torch.cat([x.flatten() for x in tensors])


def reloaded(model: TorchModel, folder: Any) -> TorchModel:
    """Saved by ``transformers`` and loaded again by it, knowing nothing but the folder."""
    hf: Any = model.module.hf
    hf.save_pretrained(folder)
    return wrapped(type(hf).from_pretrained(folder), free=model.inputs[0].shape[0] is None)


def _names(hf: Any) -> list[str]:
    if hf.main_input_name != "input_ids":
        return [hf.main_input_name]
    if not hf.can_generate() or not type(hf).__name__.endswith(("LMHeadModel", "ForCausalLM")):
        return list(_TEXT)
    layers = range(hf.config.num_hidden_layers)
    return [*_TEXT, *(f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value"))]
