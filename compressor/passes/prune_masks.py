"""Pruning by masks: single weights are set to zero, and the model keeps its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from compressor.errors import MethodError
from compressor.passes.base import Context
from compressor.passes.checkpoint import copy_of
from compressor.passes.hf_rebuild import hugging_face, without_cache
from compressor.results import Step
from compressor.rules import Rule, Ruled, touched

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.model.base import TorchModel
    from compressor.passes.graph import ChannelGraph, Layer

SAVES_NOTHING = (
    "Zeros in a dense file: this saves neither bytes nor joules in a dense runtime (ONNX Runtime and PyTorch multiply "
    "by them all the same); only a sparse runtime or a later step makes use of them."
)


@dataclass(frozen=True)
class PruneUnstructured(Ruled):
    """Set the weights of least magnitude to zero, over all layers together (Han et al. 2015).

    Attributes:
        fraction: Share of the weights of convolutions and products, above 0 and below 1.
        rules: Which layers, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "prune-unstructured"
    fraction: float = 0.5
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise MethodError(f"fraction is {self.fraction}, not a share above 0 and below 1", where=self.name)

    def apply(self, model: TorchModel, context: Context) -> TorchModel:
        """Build the model with zeros; see :class:`~compressor.passes.base.TorchPass`.

        Raises:
            MethodError: There is no layer to prune.
            RecipeError: A rule matches nothing.
            ExportError: The model cannot be traced.
        """
        import torch

        from compressor.passes.graph import ChannelGraph

        graph = ChannelGraph(without_cache(model))
        layers = _layers(graph, self.parsed, self.name)
        sizes = torch.cat([graph.parameters[layer.weight].detach().abs().flatten() for layer in layers])
        count = round(self.fraction * sizes.numel())
        order = torch.argsort(sizes, stable=True)
        kept = torch.ones_like(sizes, dtype=torch.bool)
        kept[order[:count]] = False
        pieces = kept.split([graph.parameters[layer.weight].numel() for layer in layers])
        masks = {
            layer.weight: piece.view_as(graph.parameters[layer.weight])
            for layer, piece in zip(layers, pieces, strict=True)
        }
        notes = (SAVES_NOTHING, f"{count:,} of {sizes.numel():,} weights in {len(layers)} layers are 0.")
        step = Step(self.name, {"fraction": self.fraction, "rules": "; ".join(self.rules)}, notes)
        return _masked(model, graph, masks, step, context)


@dataclass(frozen=True)
class Prune24(Ruled):
    """Of every four weights in a row along a layer's inputs keep the two largest (Mishra et al. 2021).

    Attributes:
        rules: Which layers, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str] = "prune-2:4"
    rules: tuple[str, ...] = ()

    def apply(self, model: TorchModel, context: Context) -> TorchModel:
        """Build the model with zeros; see :class:`~compressor.passes.base.TorchPass`.

        Raises:
            MethodError: No layer's inputs come in fours.
            RecipeError: A rule matches nothing.
            ExportError: The model cannot be traced.
        """
        from compressor.passes.graph import ChannelGraph

        graph = ChannelGraph(without_cache(model))
        masks, left = {}, []
        for layer in _layers(graph, self.parsed, self.name):
            weight = graph.parameters[layer.weight].detach()
            if comes_in_fours(layer, weight):
                masks[layer.weight] = two_of_four(weight)
            else:
                left.append(layer.name)
        if not masks:
            raise MethodError(
                "no linear layer or convolution that may be touched has a multiple of 4 inputs", where=self.name
            )
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        notes = [SAVES_NOTHING, f"{zeros:,} weights in {len(masks)} layers are 0."]
        if left:
            notes.append(f"Left alone, as their inputs do not come in fours: {', '.join(left)}.")
        step = Step(self.name, {"rules": "; ".join(self.rules)}, tuple(notes))
        return _masked(model, graph, masks, step, context)


_PLAIN = frozenset({"conv1d", "conv2d", "conv3d"})


def comes_in_fours(layer: Layer, weight: Tensor) -> bool:
    """Whether a layer's inputs can be masked four by four."""
    # Of a linear layer (out, in) and a convolution (out, in/groups, …); other products' layouts vary.
    return (layer.op == "linear" or layer.op in _PLAIN) and weight.shape[1] % 4 == 0


def two_of_four(weight: Tensor) -> Tensor:
    """Mark the two weights of largest magnitude of every four along axis 1.

    Args:
        weight: ``(out, in, …)``, ``in`` a multiple of 4.

    Returns:
        A mask of the same shape.
    """
    import torch

    rows = weight.abs().movedim(1, -1)
    fours = rows.reshape(-1, 4)
    best = torch.argsort(fours, dim=1, descending=True, stable=True)[:, :2]
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, best, torch.ones_like(best, dtype=torch.bool))
    return mask.reshape(rows.shape).movedim(-1, 1)


def _layers(graph: ChannelGraph, rules: tuple[Rule, ...], where: str) -> list[Layer]:
    """The layers that multiply and may be touched."""
    layers = {layer.name: layer for layer in graph.layers if layer.op != "embedding"}
    chosen = touched({name: layer.op for name, layer in layers.items()}, rules)
    if not chosen:
        why = "the rules leave no layer to prune" if layers else "the model has no convolution or product with weights"
        raise MethodError(why, where=where)
    return [layer for name, layer in layers.items() if name in chosen]


def _masked(
    model: TorchModel, graph: ChannelGraph, masks: Mapping[str, Tensor], step: Step, context: Context
) -> TorchModel:
    from compressor.passes.batch_norms import adapted
    from compressor.passes.graph import live_graph
    from compressor.passes.rewriting import own_weights, retraced, set_weight

    known = {layer.weight for layer in graph.layers if layer.op != "embedding"}
    others = [name for name, weight in graph.parameters.items() if weight.ndim > 1 and name not in known]
    if others:
        count = sum(graph.parameters[name].numel() for name in others)
        note = f"Left alone, as no convolution or product: {', '.join(others)} ({count:,} weights)."
        step = replace(step, notes=(*step.notes, note))
    if hugging_face(model.module) is not None:  # stays one: nothing of its shape changes
        same = copy_of(model.module)
        for name, mask in masks.items():
            same.get_parameter(name).data.mul_(mask)
        return replace(model, module=same, steps=(*model.steps, step))
    module = live_graph(graph.program)
    for name, weight in own_weights(graph, module).items():
        if name in masks:
            set_weight(module, name, weight * masks[name])
    made = retraced(graph.model, module)
    return replace(made, steps=(*made.steps, replace(step, notes=(*step.notes, *adapted(made, context)))))
