"""Drawing a model's weights anew, for a student that is to learn from nothing but its teacher."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from compressor.model.base import TorchModel
from compressor.passes.batch_norms import measure
from compressor.passes.checkpoint import copy_of
from compressor.passes.graph import ChannelGraph
from compressor.passes.rewriting import set_weight

_OTHER = 0.02
"""Standard deviation of weights that belong to no layer, such as positions (Devlin et al. 2019, "BERT")."""

_INSIDE_FIRST = frozenset({"matmul", "mm", "addmm", "conv_transpose2d", "conv_transpose1d", "conv_transpose3d"})
"""Operators whose weight has the inputs on its first axis."""


def drawn_anew(model: TorchModel, inputs: tuple[Tensor, ...], seed: int) -> torch.fx.GraphModule:
    """A traced model with new weights.

    Layers get torch's own: uniform within one over the root of the number of inputs, their biases too (He et al. 2015,
    as ``torch.nn.Linear`` has it); norms scale by 1 and shift by 0. A traced graph keeps the statistics of its batch
    norms while it is trained, so these are set, layer by layer, to those of a batch (the idea is that of Mishkin and
    Matas 2016, "All you need is a good init").

    Args:
        model: Its module is a traced graph; it stays as it is.
        inputs: A batch.
        seed: Of the weights.

    Returns:
        The graph with its own weights.
    """
    module: Any = copy_of(model.module)
    draw = torch.Generator().manual_seed(seed)
    fan = {}
    for layer in ChannelGraph(model).layers:
        weight = module.get_parameter(layer.weight)
        inside = weight.shape[0] if layer.op in _INSIDE_FIRST else weight.shape[1]
        fan[layer.weight] = 1 if layer.op == "embedding" else inside * weight[0, 0].numel()
    with torch.no_grad():
        for name, value in list(module.named_parameters()):
            of_layer = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
            if of_layer in fan:
                bound = fan[of_layer] ** -0.5
                made = (2 * torch.rand(value.shape, generator=draw) - 1) * bound
            elif value.ndim == 1:
                made = torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value)
            else:
                made = torch.randn(value.shape, generator=draw) * _OTHER
            set_weight(module, name, made.to(value.dtype))
    measure(module, [inputs])
    return cast(torch.fx.GraphModule, module)
