"""Weights rounded to integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quantize_symmetric(
    weight: NDArray[np.float32], reduce_range: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight to int8 around 0; the error is at most half a scale.

    Args:
        weight: ``(inputs, outputs)`` for a scale per output; any other shape for one scale.
        reduce_range: Whether to use 7 bits.

    Returns:
        The levels, and the scale: ``(outputs,)`` or ``()``.
    """
    largest = np.abs(weight).max(axis=0 if weight.ndim == 2 else None)
    scale = (largest / (64 if reduce_range else 127)).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.rint(weight / scale).astype(np.int8), scale
