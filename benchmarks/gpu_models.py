"""Models of the usual sizes with random weights, and the forms in which they run on a GPU.

Weights decide nothing about the energy of a dense product, so they are drawn at random; the sizes are BERT-base's,
ViT-B/16's and those of a Llama of about 1.2 billion parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from compressor import torchao_file
from compressor.model.hf_load import quiet_transformers
from compressor.model.quiet import quiet_export
from compressor.passes.registry import make_pass

PROMPT, NEW = 128, 64
"""Tokens that the decoder is given, and those that it makes; joules are per token made, the prompt's share included."""
TEXT_LENGTH = 128

Work = Callable[[], object]


@dataclass(frozen=True)
class Form:
    """How a model is run.

    Attributes:
        name: What the table calls it.
        dtype: Of weights and activations that are not quantized.
        compiled: Whether ``torch.compile`` makes code of it.
        method: The torchao method, if one is applied.
    """

    name: str
    dtype: torch.dtype
    compiled: bool = False
    method: str | None = None


FORMS = (
    Form("fp32", torch.float32),
    Form("fp32 (A/A)", torch.float32),
    Form("bf16", torch.bfloat16),
    Form("bf16 compiled", torch.bfloat16, True),
    Form("int8 dynamic, compiled", torch.bfloat16, True, "torchao-int8-dynamic"),
    Form("int8 weights, compiled", torch.bfloat16, True, "torchao-int8-weight-only"),
    Form("int8 weights, eager", torch.bfloat16, False, "torchao-int8-weight-only"),
    Form("int4 weights, compiled", torch.bfloat16, True, "torchao-int4-weight-only"),
    Form("fp8, compiled", torch.bfloat16, True, "torchao-fp8"),
)
"""The first is what all are compared with, the second its twin: what they differ by is the detection limit."""

SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128
}  # fmt: skip
"""For the tests of this script on a machine without a GPU."""


def build(name: str, device: str = "cpu", *, small: bool = False) -> Any:
    """Make a ``transformers`` model with random weights, in float32.

    Args:
        name: ``bert-base``, ``vit-base`` or ``llama-1b``.
        device: Where the weights are drawn: a billion of them take a CPU minutes, and every case draws them anew.
        small: A toy of the same kind.
    """
    more = SMALL if small else {}
    with quiet_transformers() as transformers, torch.device(device):
        torch.manual_seed(0)
        if name == "bert-base":
            return transformers.BertForSequenceClassification(transformers.BertConfig(**more)).eval()
        if name == "vit-base":
            return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000, **more)).eval()
        sizes = {
            "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "intermediate_size": 8192
        } | more  # fmt: skip
        config = transformers.LlamaConfig(
            vocab_size=512 if small else 128_256,
            num_key_value_heads=sizes["num_attention_heads"] // (1 if small else 4),
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
            **sizes,
        )
        return transformers.LlamaForCausalLM(config).eval()


MODELS = {"bert-base": 1, "vit-base": 1, "llama-1b": NEW}
"""Model to the items (texts, pictures or tokens) that one call makes for each example of the batch."""


def in_form(model: Any, form: Form, device: str) -> Any:
    """Put a model into a form; it is changed and moved.

    Raises:
        CompressorError: The device has no kernel for it.
    """
    model = model.to(device, form.dtype).requires_grad_(False)
    if form.method is not None:
        method = make_pass(form.method)
        method.require(device)
        tied = model.get_output_embeddings().weight if model.get_output_embeddings() is not None else None

        def fits(module: Any, _: str) -> bool:
            return type(module) is torch.nn.Linear and module.weight is not tied and not method._unfit(module.weight)

        config = method._config()
        # Else torchao changes the compiler's settings for whatever is compiled from then on, and the forms before lack
        # them; what is meant for all is below.
        config.set_inductor_config = False
        with quiet_export():
            torchao_file.torchao().quantize_(model, config, filter_fn=fits)
    if form.compiled:
        from torch._inductor import config as inductor

        # Products in int8 scale their sums on the way out, as torchao recommends; the rest is the compiler's default.
        inductor.force_fuse_int_mm_with_mul = True
    if form.compiled and model.get_output_embeddings() is None:
        # generate() compiles a decoder's steps itself, over a cache of fixed size.
        with quiet_export():
            model.compile()
    return model


def work_of(name: str, model: Any, form: Form, batch: int, device: str) -> Work:
    """One call of a model on random inputs of the right shape.

    Args:
        name: As :func:`build`.
        model: As :func:`in_form` left it.
        form: Its form.
        batch: Examples per call.
        device: Where the model is.
    """
    draws = torch.Generator().manual_seed(1)
    if name == "vit-base":
        size = model.config.image_size
        pictures = torch.randn(batch, 3, size, size, generator=draws).to(device, form.dtype)
        return lambda: model(pixel_values=pictures)
    length = PROMPT if name == "llama-1b" else TEXT_LENGTH
    tokens = torch.randint(2, model.config.vocab_size, (batch, length), generator=draws).to(device)
    mask = torch.ones_like(tokens)
    if name == "bert-base":
        return lambda: model(input_ids=tokens, attention_mask=mask)
    return lambda: model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        cache_implementation="static",
        disable_compile=not form.compiled,
    )
