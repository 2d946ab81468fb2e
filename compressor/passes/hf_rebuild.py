"""Smaller models of the Hugging Face kind: made from a changed configuration, so that they load again as any other."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from compressor.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.model.base import TorchModel
    from compressor.model.huggingface import HuggingFaceModule
    from compressor.task.base import Examples


_CACHE = re.compile(r"(?:past_key_values|present)\.(\d+)\.")


def hugging_face(module: nn.Module) -> HuggingFaceModule | None:
    """The module as the Hugging Face model that it is; ``None`` if it is none."""
    from compressor.model.huggingface import HuggingFaceModule

    return module if isinstance(module, HuggingFaceModule) else None


def rebuilt(module: nn.Module, config: Any, weights: dict[str, Tensor], where: str) -> HuggingFaceModule:
    """Make the model that a configuration describes, with given weights.

    Args:
        module: What it comes from; it stays as it is and shares no weights with the result.
        config: The ``PretrainedConfig``.
        weights: All of its state, by name.
        where: The method, for messages.

    Returns:
        The model in eval mode, without gradients.

    Raises:
        MethodError: ``transformers`` cannot build it, or the weights do not fit it.
    """
    import torch

    from compressor.model.hf_load import quiet_transformers

    hf: Any = module.hf
    try:
        with (
            quiet_transformers() as transformers,
            torch.random.fork_rng(range(torch.cuda.device_count())),
            transformers.modeling_utils.no_init_weights(),
        ):
            made = type(hf)(config).to(dtype=hf.dtype)
        made.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()})
        made.tie_weights()
    except Exception as error:  # what a model's own code raises at a configuration that it has no room for
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise MethodError(
            f"a {config.model_type} model cannot be built so: {first}", where=where, mend="name a student of your own"
        ) from error
    if hf.can_generate():
        made.generation_config = copy.deepcopy(hf.generation_config)
    found: Any = copy.copy(module)
    found._modules = {**module._modules, "hf": made.eval().requires_grad_(False)}
    return cast("HuggingFaceModule", found)


def with_module(model: TorchModel, module: HuggingFaceModule) -> TorchModel:
    """A model with a smaller module in it: of a causal model's cache, what has gone with layers and heads is gone."""
    config: Any = module.hf.config
    heads: Any = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0)
    inputs, examples = [], []
    for spec, example in zip(model.inputs, model.example_inputs, strict=True):
        layer = _CACHE.match(spec.name)
        if layer and int(layer[1]) >= config.num_hidden_layers:
            continue
        if layer:
            spec = replace(spec, shape=(spec.shape[0], heads, *spec.shape[2:]))
            example = example.new_zeros((example.shape[0], heads, *example.shape[2:]))
        inputs.append(spec)
        examples.append(example)
    module.input_names = tuple(spec.name for spec in inputs)
    module.output_names = tuple(
        name for name in module.output_names if not (m := _CACHE.match(name)) or int(m[1]) < config.num_hidden_layers
    )
    return replace(model, module=module, inputs=tuple(inputs), example_inputs=tuple(examples))


def without_cache(model: TorchModel) -> TorchModel:
    """A causal model without the inputs that hold its cache, which nothing is traced with."""
    kept = [index for index, spec in enumerate(model.inputs) if not _CACHE.match(spec.name)]
    return replace(
        model,
        inputs=tuple(model.inputs[index] for index in kept),
        example_inputs=tuple(model.example_inputs[index] for index in kept),
    )


def of_inputs(examples: Examples, model: TorchModel) -> Examples:
    """Examples without the columns that are for a causal model's cache, which come last."""
    return replace(examples, inputs=examples.inputs[: len(without_cache(model).inputs)])
