"""Pruning Hugging Face transformers: heads and neurons go as far as their configuration can say so.

The result is built from the changed configuration, so it saves and loads like any model of its kind. Width between
the blocks (``hidden_size``) stays: a configuration ties it to the number of heads.

Source: Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?", which heads can go; section 4.1 is
their importance, which ``taylor`` is, summed over a head's weights rather than taken at its output.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from compressor.errors import MethodError
from compressor.passes.graph import ChannelGraph, Removed
from compressor.passes.grouping import Group
from compressor.passes.hf_rebuild import hugging_face, rebuilt, with_module, without_cache

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.model.base import TorchModel

_WHERE = "prune"

_LINEAR = frozenset({"linear", "addmm"})

_BLOCK = re.compile(r".*?\.(\d+)\.")

_WIDTHS = ("intermediate_size", "hidden_dim", "n_inner")
"""What configurations call the width inside a feed-forward block."""


class _Part(NamedTuple):
    """The heads or the neurons of one block, in the order in which its weights have them."""

    block: int
    group: Group


def channel_graph(model: TorchModel) -> ChannelGraph:
    """The graph of channels that a model is pruned on.

    Raises:
        ExportError: The model cannot be traced.
    """
    known = hugging_face(model.module)
    if known is not None and hasattr(known.hf.config, "num_attention_heads"):
        return TransformerGraph(model)
    graph = ChannelGraph(model)
    if known is not None:
        kind = known.hf.config.model_type
        graph.remarks = (f"The result is an exported program: a {kind} configuration cannot say such widths.",)
    return graph


class TransformerGraph(ChannelGraph):
    """The channels of a Hugging Face model that its configuration can do without.

    Attributes:
        remarks: What stays whatever its importance, for the report.
    """

    _hf: Any

    def __init__(self, model: TorchModel) -> None:
        super().__init__(without_cache(model))
        self._whole = model
        self._hf = model.module.hf
        kind = self._hf.config.model_type
        if _varies(self._hf) and len(model.inputs) > len(self.model.inputs):
            self.remarks = (f"All heads stay: a {kind} model's cache has as many in every layer as it was made with.",)
        elif not _varies(self._hf) and not _has_head_size(self._hf.config):
            self.remarks = (f"All heads stay: a {kind} configuration ties their number to hidden_size.",)

    @property
    def untouchable(self) -> tuple[str, ...]:
        """None: what can go is decided by the configuration, not by an operator in the way."""
        return ()

    def groups(self, touched: frozenset[str], round_to: int) -> tuple[Group, ...]:
        """The heads and the neurons of all blocks.

        Raises:
            MethodError: The rules leave out some blocks only, and the configuration has one number for all.
        """
        found: list[Group] = []
        for kind in ("heads", "neurons"):
            varies = kind == "heads" and _varies(self._hf)
            if kind == "heads" and self.remarks:
                continue
            parts = self._parts(kind, round_to)
            chosen = [part for part in parts if touched.issuperset(part.group.layers)]
            if chosen and len(chosen) < len(parts) and not varies:
                raise MethodError(
                    f"the rules leave the {kind} of some layers alone, and a {self._hf.config.model_type} "
                    "configuration has one number for all",
                    where=_WHERE,
                    mend=f"let them touch the {kind} of all layers or of none",
                )
            # Heads of all layers are compared with each other where every layer may keep a number of its own.
            start = 1 + len(found)
            found += [replace(each.group, pool=0 if varies else start + i) for i, each in enumerate(chosen)]
        return tuple(found)

    def without(self, removed: Removed) -> TorchModel:
        """Build the model without some heads and neurons.

        Raises:
            MethodError: The model cannot be built so.
        """
        config = copy.deepcopy(self._hf.config)
        for kind, change in (("heads", _fewer_heads), ("neurons", _fewer_neurons)):
            parts = self._parts(kind, 1)
            gone = {part.block: np.flatnonzero(removed[part.group.classes]).tolist() for part in parts}
            if any(gone.values()):
                change(self._hf, config, gone)
        weights = {name: self._cut(name, tensor, removed) for name, tensor in self._hf.state_dict().items()}
        return with_module(self._whole, rebuilt(self._whole.module, config, weights, _WHERE))

    def changes(self, after: ChannelGraph) -> list[str]:
        """What became of the heads and the neurons."""
        found = []
        old, new = self._hf.config, cast(Any, after.model.module).hf.config
        blocks = range(getattr(old, "num_hidden_groups", old.num_hidden_layers))  # ALBERT shares layers
        before, now = ([_heads_in(config, block) for block in blocks] for config in (old, new))
        if before != now:
            text = " → ".join(str(h[0]) if len(set(h)) == 1 else ", ".join(map(str, h)) for h in (before, now))
            found.append(
                f"Heads per layer{', those with keys and values of their own' if _shared(old) else ''}: {text}."
            )
        if _width(old) != _width(new):
            found.append(f"Neurons of every feed-forward block: {_width(old)[1]} → {_width(new)[1]}.")
        return found

    def _cut(self, name: str, tensor: Tensor, removed: Removed) -> Tensor:
        import torch

        labels = self.weights.get(f"hf.{name}")
        if labels is None:
            return tensor
        for axis in range(tensor.ndim):
            stays = np.flatnonzero(self.kept(labels, axis, removed))
            if len(stays) < tensor.shape[axis]:
                tensor = tensor.index_select(axis, torch.from_numpy(stays))
        return tensor

    def _parts(self, kind: str, round_to: int) -> list[_Part]:
        """The heads, or the neurons, of every block that has more than one."""
        layers, found = {layer.name: layer for layer in self.layers}, []
        for group in super().groups(frozenset(layers), round_to):
            places = {_BLOCK.match(name) for name in group.layers}
            blocks = {place.group() if place else "" for place in places}
            if len(blocks) > 1 or blocks == {""} or any(layers[name].op not in _LINEAR for name in group.layers):
                continue
            block, count = int(min(blocks).split(".")[-2]), len(group.classes)
            is_head = all(len(layers[name].channels) > count for name in group.layers)
            expected = _heads_in(self._hf.config, block) if kind == "heads" else _width(self._hf.config)[1]
            if count == expected and (kind == "neurons" or is_head):
                found.append(_Part(block, group))
        return found


def _varies(hf: Any) -> bool:
    """Whether every layer may have a number of heads of its own, in the configuration's ``pruned_heads``."""
    return hasattr(hf.base_model, "_prune_heads")


def _has_head_size(config: Any) -> bool:
    """Whether the size of a head does not follow from the number of heads."""
    apart = hasattr(config, "head_dim") or hasattr(config, "num_key_value_heads")
    return apart and not config.is_encoder_decoder


def _heads_in(config: Any, block: int) -> int:
    """Heads of a block that can go by themselves: of those that share keys and values, one counts for all."""
    count = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(count) - len(config.pruned_heads.get(block, ()))


def _shared(config: Any) -> bool:
    return getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)


def _width(config: Any) -> tuple[str, int]:
    """The key of the width inside the feed-forward blocks, and the width."""
    key = next((key for key in _WIDTHS if hasattr(config, key)), "")
    value = getattr(config, key, 0)
    return key, 4 * config.hidden_size if value is None else value  # GPT-2's default


def _fewer_heads(hf: Any, config: Any, gone: dict[int, list[int]]) -> None:
    if _varies(hf):
        for block, heads in gone.items():
            before = set(config.pruned_heads.get(block, ()))
            left = [head for head in range(config.num_attention_heads) if head not in before]
            if before or heads:
                config.pruned_heads[block] = sorted(before | {left[head] for head in heads})
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    count = _one(gone)
    config.num_attention_heads -= count * (config.num_attention_heads // shared)
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = shared - count
    config.head_dim = size


def _fewer_neurons(hf: Any, config: Any, gone: dict[int, list[int]]) -> None:
    key, width = _width(config)
    setattr(config, key, width - _one(gone))


def _one(gone: dict[int, list[int]]) -> int:
    """How many go from each block, which has to be the same number."""
    counts = {len(each) for each in gone.values()}
    if len(counts) > 1:
        raise MethodError("layers would have different widths, and the configuration has one for all", where=_WHERE)
    return counts.pop()
