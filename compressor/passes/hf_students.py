"""Hugging Face students with fewer layers.

The layers that stay are evenly spaced, the first and the last among them. Sources: Sanh et al. 2019, "DistilBERT",
section 3, which starts from one layer out of two; Sajjad et al. 2023, "On the effect of dropping layers of pre-trained
transformer models", which compares that with other choices.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from compressor.errors import MethodError
from compressor.passes.hf_rebuild import rebuilt, with_module

if TYPE_CHECKING:
    from torch import nn

    from compressor.model.base import TorchModel

_MEND = "name a student of your own"

_NUMBERS = frozenset({"layer_idx", "layer_id", "layer_number", "training"})
"""Attributes that say where a layer stands, not what it does."""


def fewer_layers(model: TorchModel, layers: float, where: str) -> tuple[TorchModel, str]:
    """Leave out layers of a Hugging Face model; the rest keep their weights.

    Args:
        model: Its module is a Hugging Face model's; it stays as it is.
        layers: Share of the layers to keep, below 1, or their number.
        where: The method, for messages.

    Returns:
        The smaller model, which loads again as any other, and one sentence on it.

    Raises:
        MethodError: It has no layers that are alike, or the share or number keeps all of them.
    """
    hf: Any = model.module.hf
    count = getattr(hf.config, "num_hidden_layers", None)
    if count is None or hf.config.is_encoder_decoder:
        what = "is an encoder and a decoder" if count else "has no num_hidden_layers"
        raise MethodError(f"a {hf.config.model_type} model {what}, so its layers stay", where=where, mend=_MEND)
    chosen = evenly(layers, count, "the model", where)
    config = copy.deepcopy(hf.config)
    config.num_hidden_layers = len(chosen)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = [config.layer_types[index] for index in chosen]
    if getattr(hf.config, "num_hidden_groups", None):  # ALBERT: weights are shared, so there are none to leave out
        if hf.config.num_hidden_groups > 1:
            raise MethodError(f"its {count} layers are of {hf.config.num_hidden_groups} kinds", where=where, mend=_MEND)
        module = rebuilt(model.module, config, hf.state_dict(), where)
        return with_module(model, module), (
            f"The student runs its one shared layer {len(chosen)} instead of {count} times; its parameters stay."
        )
    name = stack_of(hf)
    if name is None:
        raise MethodError(f"a {hf.config.model_type} model has no list of {count} layers", where=where, mend=_MEND)
    config.pruned_heads = {
        place: hf.config.pruned_heads[index] for place, index in enumerate(chosen) if hf.config.pruned_heads.get(index)
    }
    places = {index: place for place, index in enumerate(chosen)}
    weights = {}
    for key, tensor in hf.state_dict().items():
        match = re.match(rf"{re.escape(name)}\.(\d+)\.", key)
        if match is None:
            weights[key] = tensor
        elif int(match[1]) in places:
            weights[f"{name}.{places[int(match[1])]}.{key[match.end() :]}"] = tensor
    module = rebuilt(model.module, config, weights, where)
    for place, index in enumerate(chosen):
        if _traits(module.hf.get_submodule(f"{name}.{place}")) != _traits(hf.get_submodule(f"{name}.{index}")):
            raise MethodError(
                f"layer {index} of '{name}' works in another way as layer {place}", where=where, mend=_MEND
            )
    return with_module(model, module), (
        f"The student keeps {len(chosen)} of the {count} layers of '{name}': {', '.join(map(str, chosen))}."
    )


def evenly(layers: float, count: int, what: str, where: str) -> list[int]:
    """Which of some layers to keep: evenly spaced, the first and the last among them.

    Args:
        layers: Share of them, below 1, or their number.
        count: How many there are.
        what: What has them, for messages.
        where: The method, for messages.

    Raises:
        MethodError: That keeps all of them.
    """
    keep = max(1, round(layers * count)) if layers < 1 else int(layers)
    if keep >= count:
        raise MethodError(f"layers is {layers:g}, which keeps all {count} layers of {what}", where=where)
    return [round(i * (count - 1) / (keep - 1)) for i in range(keep)] if keep > 1 else [0]


def stack_of(hf: Any) -> str | None:
    """The name of the list that holds a model's layers, ``num_hidden_layers`` of them; the one with most weights."""
    from torch import nn

    stacks = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in hf.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == getattr(hf.config, "num_hidden_layers", None)
    }
    return max(stacks, key=lambda name: stacks[name], default=None)


def _traits(layer: nn.Module) -> list[tuple[str, object]]:
    """What a layer does beside its weights: the plain attributes of its parts."""
    return [
        (f"{name}.{key}", value)
        for name, part in layer.named_modules()
        for key, value in sorted(vars(part).items())
        if key not in _NUMBERS and key[0] != "_" and isinstance(value, bool | int | float | str | type(None))
    ]
