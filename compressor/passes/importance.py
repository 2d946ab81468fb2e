"""How much each class of channels matters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from compressor import processes

if TYPE_CHECKING:
    import torch

    from compressor.passes.base import Context
    from compressor.passes.graph import ChannelGraph

Importance = Literal["magnitude", "taylor", "random"]

EXAMPLES = 1024
"""Most training examples that gradients are computed on."""

_BATCH = 32


def importance(graph: ChannelGraph, kind: Importance, context: Context) -> NDArray[np.float64]:
    """Score every class of channels.

    Args:
        graph: The traced model.
        kind: ``magnitude``: the L2 norm of all weights of convolutions, products and embeddings that go with the class
            (Li et al. 2017, "Pruning filters for efficient ConvNets", over all coupled layers, as Fang et al. 2023
            have it). ``taylor``: the square of the sum of weight times gradient, averaged over batches (Molchanov et
            al. 2019, "Importance estimation for neural network pruning", equation 8). ``random``: anything.
        context: Data and seed.

    Returns:
        One score per class, ``(classes,)``; that of class 0 means nothing.

    Raises:
        MethodError: Taylor has no labelled training examples.
    """
    if kind == "random":
        return np.random.default_rng(context.seed).random(graph.count)
    if kind == "taylor":
        scores = _taylor(graph, context)
    else:
        squares = {name: weight.detach() ** 2 for name, weight in graph.parameters.items() if weight.ndim > 1}
        scores = np.sqrt(per_class(graph, squares))
    if processes.count() > 1:  # processors differ in the last digit, and with it in what goes
        from compressor.passes.loop import from_first

        scores = from_first(scores)
    return scores


def per_class(graph: ChannelGraph, values: dict[str, torch.Tensor]) -> NDArray[np.float64]:
    """Add up a number per weight over the weights that go with each class, ``(classes,)``."""
    total = np.zeros(graph.count)
    for name, tensor in values.items():
        for axis in range(tensor.ndim):
            classes = graph.along(graph.weights[name], axis)
            if classes.any():
                others = [each for each in range(tensor.ndim) if each != axis]
                sums = (tensor.double().sum(others) if others else tensor.double()).numpy()
                total += np.bincount(classes, sums, minlength=graph.count)
    return total


def _taylor(graph: ChannelGraph, context: Context) -> NDArray[np.float64]:
    import torch

    from compressor.passes.hf_rebuild import of_inputs
    from compressor.passes.training import Batch, label_loss, labelled_examples, meaning_on, one_line_if_untrainable

    model = graph.model
    examples = of_inputs(labelled_examples(context, "prune"), model)
    loss = label_loss(meaning_on(graph.module, model, examples, context, "prune"), examples)
    # Gradients go to copies: the model's own weights stay without.
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in graph.parameters.items()}
    rows = np.random.default_rng(context.seed).permutation(len(examples))[:EXAMPLES]
    size = model.inputs[0].shape[0] or _BATCH
    total, batches = np.zeros(graph.count), 0
    for start in range(0, max(1, len(rows) - size + 1), size):
        part = np.resize(rows[start : start + size], size) if model.inputs[0].shape[0] else rows[start : start + size]
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(x[part])) for x in examples.inputs)
        with one_line_if_untrainable("prune"):
            found = torch.func.functional_call(graph.module, weights, inputs)
            gradients = torch.autograd.grad(loss(found, Batch(inputs, part)), list(weights.values()), allow_unused=True)
        products = {
            name: gradient * weight.detach()
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
        total += per_class(graph, products) ** 2
        batches += 1
    return total / batches
