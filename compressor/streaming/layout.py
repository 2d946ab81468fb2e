"""What becomes of each tensor of a checkpoint, and where its bytes will be; decided from the headers alone.

As every size is known beforehand, each shard's header is written first and each tensor has its place from the start:
the order in which tensors are finished, or finished again after an interrupt, cannot show in the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import MethodError, ModelError
from compressor.model.checkpoint import FLOATS, ITEM_BYTES, StoredTensor
from compressor.model.packing import Format, Part, parts
from compressor.rules import Rule, touched

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Piece:
    """One tensor of the source, and what it becomes.

    Attributes:
        name: The model's name of it.
        source: Where it is.
        parts: Names, types and shapes that it becomes; one that is the source's own if it is copied.
        quantized: Whether it is quantized.
        transposed: Whether it is stored ``(inputs, outputs)`` and has to be turned first.
    """

    name: str
    source: StoredTensor
    parts: tuple[Part, ...]
    quantized: bool
    transposed: bool

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names in the result."""
        if not self.quantized:
            return (self.name,)
        return tuple(f"{self.name.removesuffix('weight')}{part.suffix}" for part in self.parts)

    @property
    def size_bytes(self) -> int:
        """Bytes in the result."""
        return sum(map(part_bytes, self.parts))


@dataclass(frozen=True)
class Shard:
    """One file of the result.

    Attributes:
        file: Its name.
        header: The safetensors header with its length in front.
        offsets: Name of each part to its first byte in the file.
        size_bytes: Of the file.
        pieces: What goes into it.
    """

    file: str
    header: bytes
    offsets: Mapping[str, int]
    size_bytes: int
    pieces: tuple[Piece, ...]


def part_bytes(part: Part) -> int:
    """Bytes of a part."""
    return math.prod(part.shape) * ITEM_BYTES[part.dtype]


def plan_pieces(
    model: nn.Module, stored: Mapping[str, StoredTensor], form: Format, rules: Sequence[Rule], folder: Path
) -> tuple[tuple[Piece, ...], tuple[str, ...]]:
    """Decide what becomes of each tensor.

    Linear layers are quantized. The output head is not, unless a rule includes it: its error goes straight into the
    scores. A weight that two layers share, as head and embedding do in many models, never is. Embeddings, norms and
    biases are copied as they are.

    Args:
        model: The model, without storage.
        stored: The checkpoint.
        form: How weights are stored.
        rules: Which layers are touched; they go before the one on the head.
        folder: The checkpoint, for the messages.

    Returns:
        One piece per tensor that the model has a place for, in the order of the files; and notes.

    Raises:
        ModelError: Tensors are missing or of another shape.
        MethodError: There is nothing to quantize.
        RecipeError: A rule matches nothing.
    """
    from compressor.model.hf_load import require_no_more_layers
    from compressor.model.quantized import canonical_names, is_transposed, linear_layers, require_all

    own = model.state_dict(keep_vars=True)
    names = canonical_names(model, stored)
    require_all(model, names, folder)
    without_place = set(stored) - set(names.values())
    require_no_more_layers(model, without_place, folder)
    layers = linear_layers(model)
    tied = _tied(own)
    chosen = touched({name: type(layer).__name__ for name, layer in layers.items()}, _with_head(model, layers, rules))
    order = {name: number for number, name in enumerate(stored)}
    pieces = []
    for name, given in sorted(names.items(), key=lambda pair: order[pair[1]]):
        tensor = stored[given]
        if tuple(own[name].shape) != tensor.shape:
            raise ModelError(
                f"tensor '{given}' is {list(tensor.shape)}, and {type(model).__name__} wants {list(own[name].shape)}",
                where=tensor.file,
                mend="the weights and config.json do not belong together",
            )
        layer = name.removesuffix(".weight")
        if layer in chosen and name != layer and name not in tied and tensor.dtype in FLOATS:
            turned = is_transposed(layers[layer])
            outputs, inputs = reversed(tensor.shape) if turned else tensor.shape
            pieces.append(Piece(name, tensor, parts(form, outputs, inputs), True, turned))
        else:
            pieces.append(Piece(name, tensor, (Part("", tensor.dtype, tensor.shape),), False, False))
    if not any(piece.quantized for piece in pieces):
        raise MethodError("no linear layer with float weights is left to quantize", where=folder)
    return tuple(pieces), _notes(pieces, without_place, model)


def _with_head(model: nn.Module, layers: Mapping[str, nn.Module], rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The user's rules, and behind them that the output head stays as it is."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    name = next((name for name, layer in layers.items() if layer is head), None)
    if name is None or any(rule.matches(name, type(layers[name]).__name__) for rule in rules):
        return tuple(rules)
    return (*rules, Rule(include=False, pattern=name))


def _tied(own: Mapping[str, Any]) -> frozenset[str]:
    """Names of parameters that several layers share."""
    by_object: dict[int, list[str]] = {}
    for name, tensor in own.items():
        by_object.setdefault(id(tensor), []).append(name)
    return frozenset(name for names in by_object.values() if len(names) > 1 for name in names)


def _notes(pieces: Sequence[Piece], without_place: set[str], model: nn.Module) -> tuple[str, ...]:
    done = [piece for piece in pieces if piece.quantized]
    weights = sum(math.prod(piece.source.shape) for piece in done)
    every = sum(math.prod(piece.source.shape) for piece in pieces)
    notes = [f"{len(done)} of {len(pieces)} tensors are quantized, {weights / every:.1%} of the weights."]
    large = sorted(
        (piece for piece in pieces if not piece.quantized and len(piece.source.shape) > 1),
        key=lambda piece: (-piece.size_bytes, piece.name),
    )
    if large:
        kept = ", ".join(piece.name for piece in large[:3]) + (", …" if len(large) > 3 else "")
        notes.append(f"Copied as they are: {kept}, norms and biases.")
    if without_place:
        some = ", ".join(sorted(without_place)[:3]) + (", …" if len(without_place) > 3 else "")
        notes.append(
            f"Left out, as {type(model).__name__} has no place for them: {some} ({len(without_place)} in all)."
        )
    return tuple(notes)


def plan_shards(pieces: Sequence[Piece], limit_bytes: int) -> tuple[Shard, ...]:
    """Distribute pieces over files.

    Args:
        pieces: In order.
        limit_bytes: Most bytes of tensors in a file; a piece that is larger has one to itself.

    Returns:
        The files, named as Hugging Face names them.
    """
    groups: list[list[Piece]] = []
    filled = 0
    for piece in pieces:
        if not groups or filled + piece.size_bytes > limit_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += piece.size_bytes
    count = len(groups)
    return tuple(_shard(f"model-{i:05}-of-{count:05}.safetensors", group) for i, group in enumerate(groups, 1))


def _shard(file: str, pieces: Sequence[Piece]) -> Shard:
    named = [(name, part) for piece in pieces for name, part in zip(piece.part_names, piece.parts, strict=True)]
    # Wide elements first, so that each is aligned, as the safetensors library itself does.
    named.sort(key=lambda pair: (-ITEM_BYTES[pair[1].dtype], pair[0]))
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins: dict[str, int] = {}
    end = 0
    for name, part in named:
        begins[name], end = end, end + part_bytes(part)
        table[name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [begins[name], end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + begin for name, begin in begins.items()}
    return Shard(file, header, offsets, len(header) + end, tuple(pieces))


def index_of(shards: Sequence[Shard]) -> dict[str, Any]:
    """The content of ``model.safetensors.index.json``."""
    total = sum(piece.size_bytes for shard in shards for piece in shard.pieces)
    weight_map = {name: shard.file for shard in shards for name in shard.offsets}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
