"""Weights in 8 or 4 bits as our checkpoints hold them: pure functions of arrays, row by row.

A matrix ``(outputs, inputs)`` is quantized along its inputs, so each row depends on itself alone and a matrix may be
done in blocks of rows of any height, to the same bytes.

- 8 bits: one scale per row, ``max|w| / 127``; levels from -127 to 127.
- 4 bits: a scale per block of inputs, levels from 0 to 15, two a byte with the first in the low half. Asymmetric: a
  block's range is stretched to hold 0 and divided by 15, with a zero point. Symmetric: the scale is ``max|w| / 7`` and
  the zero point 8. A last block that is not full is filled up with zeros.

Scales of blocks are float16, rounded up so that the range still fits: no weight is off by more than half its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MethodError, ModelError

METHOD = "compressor"
"""``quant_method`` in the ``quantization_config`` of our checkpoints."""
VERSION = 1
BITS = (4, 8)
BLOCK_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Format:
    """How weights are stored.

    Attributes:
        bits: 8 (a scale per output) or 4 (a scale per block).
        block_size: Weights per scale at 4 bits: 32, 64 or 128; ``None`` at 8.
        symmetric: Whether levels at 4 bits have no zero point; at 8 they never have one.
    """

    bits: int
    block_size: int | None
    symmetric: bool

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise MethodError(f"weights take 4 or 8 bits, not {self.bits}", where="--bits")
        if self.bits == 4 and self.block_size not in BLOCK_SIZES:
            known = ", ".join(map(str, BLOCK_SIZES))
            raise MethodError(f"there are no blocks of {self.block_size}; known: {known}", where="--block")
        if self.bits == 8 and (self.block_size is not None or not self.symmetric):
            raise MethodError(
                "8 bits have one scale per output and no zero points",
                where="--bits 8",
                mend="leave out --block, or take 4 bits",
            )

    def config(self) -> dict[str, Any]:
        """The ``quantization_config`` of ``config.json``."""
        own = {"bits": self.bits, "block_size": self.block_size, "symmetric": self.symmetric}
        return {"quant_method": METHOD, "version": VERSION, **own}

    @classmethod
    def read(cls, config: Any, where: object) -> Format:
        """Read a ``quantization_config``.

        Raises:
            ModelError: It is not ours, or of a newer version.
        """
        if not isinstance(config, dict) or config.get("quant_method") != METHOD:
            given = config.get("quant_method") if isinstance(config, dict) else None
            raise ModelError(
                f"its weights are quantized by {given!r}, not by this tool"
                if given
                else "its weights are not quantized",
                where=where,
                mend="'compress stream FOLDER' writes what can be loaded here",
            )
        if config.get("version") != VERSION:
            raise ModelError(f"is of format {config.get('version')!r}, and this is {VERSION}", where=where)
        try:
            return cls(config["bits"], config["block_size"], config["symmetric"])
        except (KeyError, MethodError) as error:
            raise ModelError(f"has a damaged quantization_config ({error})", where=where) from error


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether ``config.json`` says that the weights are stored in our format."""
    found = config.get("quantization_config")
    return isinstance(found, dict) and found.get("quant_method") == METHOD


@dataclass(frozen=True)
class Part:
    """One of the arrays that a quantized matrix becomes.

    Attributes:
        suffix: Takes the place of ``weight`` in the name.
        dtype: As safetensors writes it.
        shape: Its shape.
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]


def parts(form: Format, outputs: int, inputs: int) -> tuple[Part, ...]:
    """What a matrix ``(outputs, inputs)`` becomes.

    Args:
        form: How it is stored.
        outputs: Its rows.
        inputs: Its columns.

    Returns:
        In the order of :func:`quantize`.
    """
    if form.block_size is None:
        return Part("qweight", "I8", (outputs, inputs)), Part("scale", "F32", (outputs,))
    blocks = -(-inputs // form.block_size)
    packed = Part("qweight", "U8", (outputs, blocks * form.block_size // 2)), Part("scale", "F16", (outputs, blocks))
    return packed if form.symmetric else (*packed, Part("zero", "U8", (outputs, -(-blocks // 2))))


def quantize(weight: NDArray[np.float32], form: Format) -> tuple[NDArray[np.generic], ...]:
    """Round some rows of a matrix to the nearest level.

    Args:
        weight: ``(rows, inputs)``, finite.
        form: How it is stored.

    Returns:
        The arrays of :func:`parts` for these rows.

    Raises:
        MethodError: A weight is NaN or infinite, or too large for a float16 scale.
    """
    if form.block_size is None:
        amax = np.abs(weight).max(axis=1, initial=0)
        _require_finite(amax)
        scale = (amax / np.float32(127)).astype(np.float32)
        scale = np.where(scale > 0, scale, np.float32(1))  # of the tiniest weights it is 0 as well
        levels = np.rint(weight / scale[:, None])
        return np.clip(levels, -127, 127, out=levels).astype(np.int8), scale
    cut = _blocks(weight, form.block_size)
    low, high = cut.min(axis=2), cut.max(axis=2)
    _require_finite(low)
    _require_finite(high)
    if form.symmetric:
        scale = _up(np.maximum(-low, high) / np.float32(7))
        zero = np.full(scale.shape, 8, np.float32)
    else:
        scale = _up((np.maximum(high, 0) - np.minimum(low, 0)) / np.float32(15))
        zero = np.clip(np.rint(-np.minimum(low, 0) / scale), 0, 15)
    levels = cut / scale[..., None]
    np.rint(levels, out=levels)
    levels += zero[..., None]
    np.clip(levels, 0, 15, out=levels)
    packed = _nibbles(levels.astype(np.uint8).reshape(len(weight), -1))
    arrays = packed, scale.astype(np.float16)
    return arrays if form.symmetric else (*arrays, _nibbles(zero.astype(np.uint8)))


def dequantize(arrays: tuple[NDArray[Any], ...], form: Format, inputs: int) -> NDArray[np.float32]:
    """The matrix ``(rows, inputs)`` that the arrays of :func:`quantize` stand for."""
    packed, scale = arrays[0], arrays[1].astype(np.float32)
    if form.block_size is None:
        return packed.astype(np.float32) * scale[:, None]
    levels = _apart(packed).astype(np.float32).reshape(*scale.shape, form.block_size)
    zero = np.float32(8) if form.symmetric else _apart(arrays[2])[:, : scale.shape[1], None].astype(np.float32)
    return ((levels - zero) * scale[..., None]).reshape(len(packed), -1)[:, :inputs]


def _blocks(weight: NDArray[np.float32], block_size: int) -> NDArray[np.float32]:
    rows, inputs = weight.shape
    missing = -inputs % block_size
    if missing:
        weight = np.concatenate([weight, np.zeros((rows, missing), np.float32)], axis=1)
    return weight.reshape(rows, -1, block_size)


def _up(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest float16 that is not smaller, as float32; 1 for 0."""
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
        half = np.where(half.astype(np.float32) < scale, np.nextafter(half, np.float16(np.inf)), half)
    if not np.isfinite(half).all():
        raise MethodError("has weights too large for 4 bits with a float16 scale", mend="use 8 bits")
    return np.where(half > 0, half, np.float16(1)).astype(np.float32)


def _require_finite(values: NDArray[np.float32]) -> None:
    # The largest and the smallest are NaN or infinite if any is.
    if not np.isfinite(values).all():
        raise MethodError("has weights that are NaN or infinite", mend="the checkpoint is damaged, or diverged")


def _nibbles(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two levels a byte along the last axis, the first in the low half; an odd end is filled with 0."""
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], axis=-1)
    return np.bitwise_or(levels[..., 0::2], np.left_shift(levels[..., 1::2], np.uint8(4)))


def _apart(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo :func:`_nibbles`."""
    both = np.stack([np.bitwise_and(packed, np.uint8(15)), np.right_shift(packed, np.uint8(4))], axis=-1)
    return both.reshape(*packed.shape[:-1], -1)
