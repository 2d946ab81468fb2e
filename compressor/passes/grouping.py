"""Groups of channels, and how many of each to remove to meet a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compressor.passes.graph import ChannelGraph, Removed

MOST = 0.9
"""Largest share of a group's channels that is removed, so that no layer becomes a bottleneck."""


@dataclass(frozen=True, eq=False)
class Group:
    """Classes of channels that the same layers put out: one decision on a width.

    Attributes:
        layers: Names of the layers.
        classes: The classes, ascending.
        step: How many classes make up the multiple that widths are kept at.
        pool: Global pruning compares the classes of groups of one pool with each other; from a pool by itself it
            removes the share that it removes elsewhere.
    """

    layers: tuple[str, ...]
    classes: NDArray[np.int64]
    step: int
    pool: int = 0

    def allowed(self, removed: int) -> int:
        """The most classes, up to so many, whose removal leaves a multiple; 0 if none."""
        count = len(self.classes)
        floor = max(1, ceil(count * (1 - MOST)))
        kept = -(-max(count - removed, floor) // self.step) * self.step
        return max(0, count - kept)


def groups_of(graph: ChannelGraph, touched: frozenset[str], round_to: int) -> tuple[Group, ...]:
    """Sort the classes that may be removed into groups.

    Args:
        graph: The traced model.
        touched: Names of the layers whose output channels may go.
        round_to: Widths are kept at multiples of this.

    Returns:
        The groups with at least two classes, in the order of the graph.
    """
    makers: dict[int, list[str]] = {}
    widths: dict[int, list[int]] = {}
    for layer in graph.layers:
        classes, counts = np.unique(layer.channels, return_counts=True)
        for each, count in zip(classes.tolist(), counts.tolist(), strict=True):
            makers.setdefault(each, []).append(layer.name)
            widths.setdefault(each, []).append(count)
    makers.pop(0, None)
    gathered: dict[tuple[str, ...], list[int]] = {}
    for each, names in makers.items():
        if touched.issuperset(names):
            gathered.setdefault(tuple(names), []).append(each)
    groups = []
    for layers, members in gathered.items():
        common = gcd(*(width for each in members for width in widths[each]))
        if len(members) > 1:
            groups.append(Group(layers, np.array(sorted(members)), round_to // gcd(round_to, common)))
    return tuple(groups)


def choose(
    graph: ChannelGraph,
    groups: tuple[Group, ...],
    scores: NDArray[np.float64],
    size: Callable[[Removed], int],
    limit: float,
    *,
    uniform: bool,
) -> Removed:
    """Remove the least important classes until the model is small enough.

    Args:
        graph: The traced model.
        groups: What may be removed.
        scores: Importance of every class. Global pruning divides them by their group's mean, as norms of layers
            of different size cannot be compared, and ranks them within their pool.
        size: What is to shrink: parameters or FLOPs of the model without some classes.
        limit: What ``size`` has to come down to.
        uniform: Remove the same share from every group, instead of the least important everywhere.

    Returns:
        The smallest removal that meets the limit in this order, else the largest that is allowed. Where rounding makes
        several groups shrink at once, those whose channels matter least shrink alone if that is enough.
    """
    ranked = [group.classes[np.argsort(scores[group.classes], kind="stable")] for group in groups]
    shares: list[NDArray[np.float64]] = []
    for group, each in zip(groups, ranked, strict=True):
        pool = [order for other, order in zip(groups, ranked, strict=True) if other.pool == group.pool]
        if uniform or len(pool) == 1:
            shares.append(np.arange(1, len(each) + 1) / len(each))
        else:
            values = np.sort(np.concatenate([_scaled(scores, order) for order in pool]))
            shares.append(np.searchsorted(values, _scaled(scores, each), side="right") / len(values))
    levels = np.unique(np.concatenate(shares))

    def removal(level: float) -> Removed:
        removed = graph.none
        for group, order, share in zip(groups, ranked, shares, strict=True):
            removed[order[: group.allowed(int(np.searchsorted(share, level, side="right")))]] = True
        return _never_all(graph, removed, scores)

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if size(removal(levels[middle])) <= limit:
            high = middle
        else:
            low = middle + 1
    removed, last = removal(levels[low - 1]) if low else graph.none, removal(levels[low])
    for classes in _units(groups, [order[last[order] & ~removed[order]] for order in ranked], scores):
        removed[classes] = True
        removed = _never_all(graph, removed, scores)
        if size(removed) <= limit:
            return removed
    return last


def _units(
    groups: tuple[Group, ...], going: Sequence[NDArray[np.int64]], scores: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """What may go without the rest, the least important first: rounding made it more, and no configuration ties it."""
    pools = [group.pool for group in groups]
    apart = [
        (float(scores[classes].mean()) / _mean(scores, group.classes), classes)
        for group, classes in zip(groups, going, strict=True)
        if classes.size and group.step > 1 and pools.count(group.pool) > 1
    ]
    return [classes for _, classes in sorted(apart, key=lambda each: each[0])]


def same_share(graph: ChannelGraph, groups: tuple[Group, ...], scores: NDArray[np.float64], share: float) -> Removed:
    """Remove the same share of every group, the least important first; less where widths have to be multiples."""
    removed = graph.none
    for group in groups:
        order = group.classes[np.argsort(scores[group.classes], kind="stable")]
        removed[order[: group.allowed(round(share * len(order)))]] = True
    return _never_all(graph, removed, scores)


def _scaled(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    return scores[classes] / _mean(scores, classes)


def _mean(scores: NDArray[np.float64], classes: NDArray[np.int64]) -> float:
    return float(scores[classes].mean()) or 1.0


def _never_all(graph: ChannelGraph, removed: Removed, scores: NDArray[np.float64]) -> Removed:
    """Put the most important class back where all of an axis would go, as in one half of a split."""
    for along in graph.axes:
        if removed[along].all():
            removed[along[np.argmax(scores[along])]] = False
    return removed
