r"""Spearman's rank correlation, and what each example contributes to it: pure functions of numbers, ``(N,)``.

It is Pearson's correlation of the ranks, those of equal values averaged (Spearman, American Journal of Psychology 15,
1904). As it is no mean over examples, its value per example is its linear part, the correlation plus the example's
empirical influence (Croux and Dehon, "Influence functions of the Spearman and Kendall correlation measures",
Statistical Methods & Applications 19, 2010): these average to the correlation exactly, and their paired differences
give the interval of a loss by the delta method (the infinitesimal jackknife: Efron, Biometrika 68, 1981).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError

SPEARMAN = "spearman"

Array = NDArray[np.generic]
Floats = NDArray[np.float64]


def spearman(targets: Array, outputs: Array) -> float:
    """Rank correlation, -1 to 1; 0 for outputs that are all the same, which put nothing in order.

    Args:
        targets: One number per example.
        outputs: One number per example.

    Raises:
        DataError: The targets are all the same.
    """
    from scipy.stats import spearmanr

    x, y = targets.reshape(-1), outputs.reshape(-1)
    if (x == x[0]).all():
        raise DataError("is not defined for test targets that are all the same", where=SPEARMAN)
    return 0.0 if (y == y[0]).all() else float(spearmanr(x, y).statistic)


def spearman_parts(targets: Array, outputs: Array) -> Floats:
    """Numbers ``(N,)`` that average to :func:`spearman`; arguments as there."""
    value = spearman(targets, outputs)
    x, y = _Places(targets.reshape(-1)), _Places(outputs.reshape(-1))
    spread_x, spread_y = x.places.var(), y.places.var()
    if not spread_y:
        return np.zeros(len(x.places))
    both = x.places * y.places + x.behind(y.places) + y.behind(x.places)
    own = [(one.places**2 + 2 * one.behind(one.places)) / spread for one, spread in ((x, spread_x), (y, spread_y))]
    influence = both / np.sqrt(spread_x * spread_y) - value / 2 * (own[0] + own[1])
    return np.asarray(value + influence - influence.mean(), np.float64)


class _Places:
    """Where each value stands among all of them: the share of smaller ones and half of the equal ones."""

    def __init__(self, values: Array) -> None:
        _, self._group, self._sizes = np.unique(values, return_inverse=True, return_counts=True)
        before = np.cumsum(self._sizes) - self._sizes
        self.places: Floats = ((before + self._sizes / 2) / len(values))[self._group]

    def behind(self, weights: Floats) -> Floats:
        """Per example, the weights of all examples that it moves up (half of those it equals), over their number."""
        totals = np.bincount(self._group, weights, len(self._sizes))
        above = totals.sum() - np.cumsum(totals)
        return np.asarray(((above + totals / 2) / len(weights))[self._group], np.float64)
