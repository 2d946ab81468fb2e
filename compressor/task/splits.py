"""Which examples calibrate and which are scored; never the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.model.base import Arrays

Array = NDArray[np.generic]
Indices = NDArray[np.int64]


def draw(count: int, total: int, labels: Array | None, seed: int) -> tuple[Indices, Indices, bool]:
    """Draw some of ``total`` examples at random, each class in proportion where that can be done.

    Args:
        count: How many to draw, 1 to ``total``.
        total: How many there are.
        labels: ``(total,)`` class labels, or ``None``.
        seed: Of the draw.

    Returns:
        The drawn and the other indices, both rising, and whether classes were kept in proportion.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(total)
    if count == total:
        return everything, everything[:0], labels is not None
    stratify = None
    if labels is not None:
        sizes = np.unique(labels, return_counts=True)[1]
        # What scikit-learn requires: two of each class, and room for each class on both sides.
        if sizes.min() >= 2 and min(count, total - count) >= len(sizes):
            stratify = labels
    drawn, others = train_test_split(everything, train_size=count, random_state=seed, shuffle=True, stratify=stratify)
    return np.sort(drawn), np.sort(others), stratify is not None


def row_digests(inputs: Arrays, dtypes: Sequence[np.dtype[np.generic]] | None = None) -> NDArray[np.uint64]:
    """Hash each example's input bytes, as the model will see them.

    Args:
        inputs: One array per model input, ``(N, …)`` each.
        dtypes: What each input will be cast to, row by row here; ``None`` to hash them as they are.

    Returns:
        BLAKE2b of 64 bits, ``(N,)``: among a million examples a chance match has a probability under 1e-7.
    """
    seen = [x.dtype for x in inputs] if dtypes is None else dtypes
    digests = bytearray()
    for i in range(len(inputs[0])):
        state = hashlib.blake2b(digest_size=8)
        for x, dtype in zip(inputs, seen, strict=True):
            state.update(np.ascontiguousarray(x[i], dtype).data)
        digests += state.digest()
    return np.frombuffer(bytes(digests), np.uint64)
