"""Scores over the tokens of a text: pure functions of whole numbers, ``(N, length)``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

IGNORED = -100
"""Target of a position that is not scored: padding, or a word's second piece; torch's ``ignore_index``."""


def right_tokens(targets: Array, outputs: Array) -> NDArray[np.float64]:
    """Per example, the number of right tokens over the mean number of scored tokens.

    So the examples' mean is right tokens over all scored tokens, and each example weighs as many as it has.

    Args:
        targets: ``(N, length)``; :data:`IGNORED` is not scored.
        outputs: ``(N, length)``.
    """
    scored = targets != IGNORED
    right = ((targets == outputs) & scored).sum(axis=1)
    return np.asarray(right * len(targets) / max(int(scored.sum()), 1), np.float64)


def token_accuracy(targets: Array, outputs: Array) -> float:
    """Right tokens over scored tokens; arguments as for :func:`right_tokens`."""
    return float(right_tokens(targets, outputs).mean())


def exact_rows(targets: Array, outputs: Array) -> NDArray[np.float64]:
    """1 where a whole row is right, else 0; ``(N, k)`` both."""
    return np.asarray((targets == outputs).all(axis=1), np.float64)


def exact_share(targets: Array, outputs: Array) -> float:
    """Rows that are right as a whole, over all; arguments as for :func:`exact_rows`."""
    return float(exact_rows(targets, outputs).mean())
