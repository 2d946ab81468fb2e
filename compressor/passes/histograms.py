"""Ranges that cut rare large values off, from a histogram whose size does not grow with the data.

Sources: the KL-divergence calibration is Migacz, "8-bit inference with TensorRT" (GTC 2017); the percentile one is
Wu et al., "Integer quantization for deep learning inference" (2020), section 5.2, with a share cut at each end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF_BINS = 2048
"""Bins on each side of zero."""

FEWEST_BINS = 128
STRIDE = 16
"""The entropy search tries thresholds of 128, 144, … 2048 bins."""


class Histogram:
    """Counts of an activation's values over equal bins from ``-limit`` to ``limit``.

    Args:
        limit: The largest absolute value that will be added.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF_BINS, np.int64)

    def add(self, values: NDArray[np.generic]) -> None:
        """Count some values."""
        if self.limit > 0:
            found, _ = np.histogram(values, bins=2 * HALF_BINS, range=(-self.limit, self.limit))
            self.counts += found

    def percentile(self, percent: float, span: tuple[float, float]) -> tuple[float, float]:
        """The range that holds a share of the values; half of the rest is cut off at each end.

        An end at which nothing lies (behind a ReLU, say) is not cut, and all of the rest is cut at the other. No end is
        cut beyond 0, which has to be among the levels.

        Args:
            percent: The share, in percent.
            span: Smallest and largest value that was added.

        Returns:
            The range, a part of ``span``.
        """
        total = self.counts.sum()
        if total == 0:
            return span
        edges = np.linspace(-self.limit, self.limit, 2 * HALF_BINS + 1)
        sides = 1 if span[0] >= 0 or span[1] <= 0 else 2
        cut = (1 - percent / 100) / sides * total
        below = np.cumsum(self.counts)
        low, high = span
        if span[0] < 0:
            low = min(max(low, float(edges[np.searchsorted(below, cut, side="right")])), 0.0)
        if span[1] > 0:
            high = max(min(high, float(edges[np.searchsorted(below, total - cut, side="left") + 1])), 0.0)
        return low, high

    def entropy(self, span: tuple[float, float]) -> tuple[float, float]:
        """The range whose quantized distribution differs least from the whole one (Kullback and Leibler).

        Args:
            span: Smallest and largest value that was added.

        Returns:
            The range, ``span`` cut at one threshold on both sides.
        """
        folded = (self.counts[HALF_BINS:] + self.counts[:HALF_BINS][::-1]).astype(np.float64)
        if folded.sum() == 0:
            return span
        # The bin at zero holds what a ReLU cut: exactly representable, so it must not outweigh all else.
        folded[0] = folded[1]
        levels = 256 if span[0] >= 0 or span[1] <= 0 else 128
        bins = range(max(FEWEST_BINS, levels), HALF_BINS + 1, STRIDE)
        best = min(bins, key=lambda count: _divergence(folded, count, levels))
        threshold = best / HALF_BINS * self.limit
        return max(span[0], -threshold), min(span[1], threshold)


def _divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """Kullback–Leibler divergence from the clipped distribution to its quantized form."""
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    total = reference.sum()
    if total == 0:
        return float("inf")
    # Each level takes the mean of the non-empty bins that fall into it.
    level = np.arange(kept) * levels // kept
    filled = counts[:kept] > 0
    sums = np.bincount(level, counts[:kept], levels)
    used = np.bincount(level, filled, levels)
    spread = np.where(filled, (sums / np.maximum(used, 1))[level], 0.0)
    if spread.sum() == 0:
        return float("inf")
    p, q = reference / total, spread / spread.sum()
    # A share of both goes to every bin, so that an empty one does not make the divergence infinite.
    p, q = 0.9999 * p + 0.0001 / kept, 0.9999 * q + 0.0001 / kept
    return float(np.sum(p * np.log(p / q)))
