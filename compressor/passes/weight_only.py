"""int4 and int8-weight-only: the weights of matrix products in few bits, in blocks with a scale and a zero point each.

The form is that of ONNX Runtime's MatMulNBits (``docs/ContribOperators.md``), which unpacks the weights as it
multiplies: it saves memory traffic, so it pays for big weights at small batches and hardly elsewhere. Activations are
float32 between the operators; inside the kernel they are rounded to int8, block by block (accuracy level 4), its
fastest form. That keeps what one scale for a whole tensor, as dynamic int8 has it, loses beside its outliers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError
from compressor.onnx_file import save_onnx
from compressor.onnx_wire import array_of
from compressor.passes.base import Context
from compressor.passes.embeddings import shrink, tables
from compressor.passes.int8_plan import PRODUCTS, is_plain
from compressor.passes.qdq import clean, explained, quiet
from compressor.passes.rewrites import drop_unused, prepare, split_gemms
from compressor.results import Step
from compressor.rules import Ruled, touched

if TYPE_CHECKING:
    import onnx

BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class _WeightOnly(Ruled):
    """What the methods share.

    Attributes:
        block_size: Weights per scale: 16, 32, 64, 128 or 256. Smaller is more exact and takes more room.
        rules: Which layers are quantized, as :mod:`compressor.rules` has it.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    block_size: int = 32
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size not in BLOCK_SIZES:
            closest = min(BLOCK_SIZES, key=lambda size: abs(size - self.block_size))
            raise MethodError(
                f"block_size {self.block_size} does not exist; known: {', '.join(map(str, BLOCK_SIZES))}",
                where=self.name,
                mend=f"the nearest is {closest}",
            )

    def apply(self, source: Path, target: Path, context: Context) -> Step:
        """Write the quantized model; see :class:`~compressor.passes.base.GraphPass`.

        Raises:
            MethodError: The model is quantized already, or has no matrix product with float32 weights.
            RecipeError: A rule matches nothing.
        """
        working = tempfile.TemporaryDirectory(prefix=f".{self.name}.", dir=target.parent)
        with working as name, quiet(), explained(self.name, source):
            proto = prepare(source, Path(name))
            layers = packable(proto)
            if not layers:
                raise MethodError(
                    "there is nothing to quantize: no matrix product with float32 weights",
                    where=self.name,
                    mend=f"{self.name} is for transformers and multilayer perceptrons; use int8 for convolutions",
                )
            embedded = tables(proto.graph)
            chosen = touched({**layers, **embedded}, self.parsed)
            matched = chosen & layers.keys()
            if not matched:
                raise MethodError("the rules leave no layer to quantize", where=self.name, mend="exclude fewer layers")
            left = sum(node.op_type in ("Conv", "ConvTranspose", "GRU", "LSTM", "RNN") for node in proto.graph.node)
            split_gemms(proto, matched)
            _pack(proto, matched, self.bits, self.block_size)
            shrunk = [shrink(proto.graph, names)] if (names := chosen & embedded.keys()) else []
            clean(proto)
            save_onnx(proto, target)
        notes = [
            f"{self.bits}-bit weights in blocks of {self.block_size}: {len(matched)} matrix products; "
            "activations float32.",
            *shrunk,
        ]
        if left:
            notes.append(f"Left in fp32, for lack of such a kernel: {left} convolutions or recurrences.")
        if ruled_out := [layer for layer in (*layers, *embedded) if layer not in chosen]:
            notes.append(f"Left in fp32 by the rules: {', '.join(ruled_out)}.")
        settings: dict[str, str | int | float | bool | None] = {"block_size": self.block_size, "zero_points": True}
        return Step(self.name, {**settings, "rules": "; ".join(self.rules) or None}, tuple(notes))


@dataclass(frozen=True)
class Int4(_WeightOnly):
    """4-bit weights in blocks.

    Its settings are those of all weight-only methods: ``block_size`` and ``rules``.
    """

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4


@dataclass(frozen=True)
class Int8WeightOnly(_WeightOnly):
    """8-bit weights in blocks: hardly any error, for models whose activations int8 cannot hold (language models).

    Its settings are those of all weight-only methods: ``block_size`` and ``rules``.
    """

    name: ClassVar[str] = "int8-weight-only"
    bits: ClassVar[int] = 8


def packable(proto: onnx.ModelProto) -> dict[str, str]:
    """Name and operator of each node that has such a kernel: a product with a float32 weight of two axes."""
    weights = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT}
    return {
        node.name: node.op_type
        for node in proto.graph.node
        if node.op_type in PRODUCTS
        and is_plain(node)
        and len(node.input) > 1
        and node.input[1] in weights
        and len(weights[node.input[1]].dims) == 2
    }


def quantize_blocks(
    weight: NDArray[np.float32], bits: int, block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Round a weight to few bits, to the nearest level, in blocks along its inputs.

    The range of a block is stretched to hold 0, which padding needs to be exact. The error of a weight is at most half
    its block's scale.

    Args:
        weight: ``(inputs, outputs)``.
        bits: 4 or 8.
        block_size: Weights per block.

    Returns:
        Levels from 0 to ``2**bits - 1``, ``(outputs, blocks, block_size)``; scales, ``(outputs, blocks)``; zero points,
        likewise.
    """
    inputs, outputs = weight.shape
    blocks, highest = -(-inputs // block_size), 2**bits - 1
    padded = np.zeros((outputs, blocks * block_size), np.float32)
    padded[:, :inputs] = weight.T
    cut = padded.reshape(outputs, blocks, block_size)
    low, high = np.minimum(cut.min(axis=2), 0), np.maximum(cut.max(axis=2), 0)
    scale = ((high - low) / highest).astype(np.float32)
    safe = np.where(scale > 0, scale, np.float32(1))
    zero = np.clip(np.rint(-low / safe), 0, highest)
    levels = np.clip(np.rint(cut / safe[..., None]) + zero[..., None], 0, highest)
    return levels.astype(np.uint8), safe, zero.astype(np.uint8)


def dequantize_blocks(
    levels: NDArray[np.uint8], scale: NDArray[np.float32], zero: NDArray[np.uint8], inputs: int
) -> NDArray[np.float32]:
    """The weight, ``(inputs, outputs)``, that the levels of :func:`quantize_blocks` stand for."""
    values = (levels.astype(np.float32) - zero[..., None]) * scale[..., None]
    return values.reshape(len(levels), -1)[:, :inputs].T


def _pack(proto: onnx.ModelProto, matched: Set[str], bits: int, block_size: int) -> None:
    """Replace matrix products by MatMulNBits, in place; a weight that several share is packed once."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    packed: set[str] = set()
    for node in proto.graph.node:
        if node.name not in matched:
            continue
        name = node.input[1]
        inputs, outputs = weights[name].dims
        if name not in packed:
            packed.add(name)
            levels, scale, zero = quantize_blocks(array_of(weights[name]), bits, block_size)
            if bits == 4:
                levels, zero = _nibbles(levels), _nibbles(zero)
            arrays: dict[str, NDArray[np.generic]] = {
                f"int{bits}": levels,
                "scale": scale.reshape(-1),
                "zero": zero.reshape(-1),
            }
            proto.graph.initializer.extend(numpy_helper.from_array(x, f"{name}.{end}") for end, x in arrays.items())
        replaced = helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}.int{bits}", f"{name}.scale", f"{name}.zero"],
            node.output,
            name=node.name,
            domain="com.microsoft",
            K=inputs,
            N=outputs,
            bits=bits,
            accuracy_level=4,
            block_size=block_size,
        )
        node.CopyFrom(replaced)
    drop_unused(proto.graph)
    if not any(entry.domain == "com.microsoft" for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _nibbles(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two levels a byte along the last axis, the first in the low half; an odd end is filled with 0."""
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(levels[..., 0::2], np.left_shift(levels[..., 1::2], np.uint8(4)))
