"""Which channel each element of each tensor belongs to, and which channels have to go together.

Every index along an axis of a weight is a *unit*, numbered from 1. A tensor carries *factors*: integer arrays with as
many axes as the tensor, of size 1 along the axes on which they do not vary, that say which unit an element goes with.
A convolution's output ``(N, C, H, W)`` carries one factor ``(1, C, 1, 1)``; flattened, ``(1, C·H·W)``. Operators join
units: what is joined is removed together or not at all. Unit 0 is never removed.

The idea of removing coupled channels together is that of Fang et al., "DepGraph: Towards Any Structural Pruning"
(CVPR 2023); following single indices rather than layers makes concatenation, splitting, flattening, grouped
convolutions and attention heads cases of the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Factor = NDArray[np.int64]

FROZEN = 0
"""The unit that is never removed."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor's shape (free axes at the size they have in the example) and its factors.

    Attributes:
        shape: One size per axis.
        factors: At most one varies along any axis, except in the values of an operator that has just joined them.
        static: Whether it follows from weights alone.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    static: bool = False

    def touching(self, axis: int) -> list[Factor]:
        """The factors that vary along an axis."""
        return [factor for factor in self.factors if factor.shape[axis] > 1]

    def reshaped(self, shape: tuple[int, ...]) -> Labelled:
        """The same elements in row-major order in another shape."""
        if shape == self.shape:
            return self
        factors = tuple(reshape_factor(factor, self.shape, shape) for factor in self.factors)
        return Labelled(shape, factors, self.static)

    def permuted(self, order: Sequence[int]) -> Labelled:
        """The axes in another order."""
        shape = tuple(self.shape[axis] for axis in order)
        return Labelled(shape, tuple(factor.transpose(order) for factor in self.factors), self.static)

    def padded(self, rank: int) -> Labelled:
        """Axes of size 1 in front until there are ``rank``, as broadcasting does."""
        front = (1,) * (rank - len(self.shape))
        factors = tuple(factor.reshape(front + factor.shape) for factor in self.factors)
        return Labelled(front + self.shape, factors, self.static)


def varied(factor: Factor) -> set[int]:
    """The axes along which a factor varies."""
    return {axis for axis, size in enumerate(factor.shape) if size > 1}


def reshape_factor(factor: Factor, old: tuple[int, ...], new: tuple[int, ...]) -> Factor:
    """Follow a factor through a reshape; axes that it does not vary on are only written out where they are merged."""
    spread, wanted = list(factor.shape), [1] * len(new)
    for taken, made in _runs(old, new):
        if any(factor.shape[axis] > 1 for axis in range(len(old))[taken]):
            spread[taken], wanted[made] = old[taken], new[made]
    return _simple(np.broadcast_to(factor, spread).reshape(wanted))


def _runs(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Pair the shortest runs of old and new axes that hold equally many elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        start, begin = i, j
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        yield slice(start, i), slice(begin, j)


def _simple(factor: Factor) -> Factor:
    """Give size 1 to axes along which the factor repeats itself, as long as another is left."""
    for axis in sorted(varied(factor), key=lambda axis: factor.shape[axis]):
        first = factor.take([0], axis)
        if first.size > 1 and bool((factor == first).all()):
            factor = first
    return factor


@dataclass
class Coupling:
    """Units and what joins them.

    Attributes:
        units: How many there are, number 0 included.
        reasons: Units that were frozen, and why.
    """

    units: int = 1
    reasons: list[tuple[Factor, str]] = field(default_factory=list)
    _left: list[Factor] = field(default_factory=list)
    _right: list[Factor] = field(default_factory=list)

    def new(self, shape: tuple[int, ...]) -> Labelled:
        """A weight: one factor for each axis longer than 1."""
        factors = []
        for axis, size in enumerate(shape):
            if size > 1:
                numbers = np.arange(self.units, self.units + size, dtype=np.int64)
                factors.append(numbers.reshape([size if other == axis else 1 for other in range(len(shape))]))
                self.units += size
        return Labelled(shape, tuple(factors), static=True)

    def join(self, one: Factor, other: Factor | int) -> None:
        """Tie units together, element by element."""
        left, right = np.broadcast_arrays(one, np.asarray(other, dtype=np.int64))
        self._left.append(left.ravel())
        self._right.append(right.ravel())

    def tie(self, factor: Factor, axis: int) -> Factor:
        """Tie everything along an axis; the factor without that axis' variation."""
        first = factor.take([0], axis)
        self.join(factor, first)
        return first

    def freeze(self, factor: Factor, reason: str | None = None) -> None:
        """Make units untouchable.

        Args:
            factor: The units.
            reason: What the user should hear of it; ``None`` if it follows from something else.
        """
        self.join(factor.ravel(), FROZEN)
        if reason is not None:
            self.reasons.append((factor.ravel(), reason))

    def freeze_axis(self, factor: Factor, axis: int, reason: str | None = None) -> Factor | None:
        """Keep an axis' positions as they are: tie along it, or freeze the factor if it varies on nothing else.

        Returns:
            The factor with size 1 along the axis; ``None`` if nothing of it is left.
        """
        if factor.shape[axis] == 1:
            return factor
        if varied(factor) == {axis}:
            self.freeze(factor, reason)
            return None
        return self.tie(factor, axis)

    def vector(self, value: Labelled, axis: int) -> Factor:
        """The units along one axis, ``(size,)``; what varies on other axes as well is tied along those."""
        found = np.full(value.shape[axis], FROZEN, dtype=np.int64)
        for index, factor in enumerate(value.touching(axis)):
            for other in varied(factor) - {axis}:
                factor = self.tie(factor, other)
            if index:
                self.join(factor.ravel(), found)
            found = factor.ravel()
        return found

    def couple(self, values: Sequence[Labelled], shape: tuple[int, ...]) -> tuple[Factor, ...]:
        """Join tensors as an operator that broadcasts them against each other does.

        Channels of one that meet an axis without channels in another (which is there for good) stay along that axis:
        heads whose elements are scaled position by position, as rotary embeddings do, go whole or not at all.

        Args:
            values: The operands.
            shape: What they broadcast to.

        Returns:
            The factors of the result.
        """
        aligned = [value.padded(len(shape)) for value in values]
        result: list[Factor] = []
        for index, value in enumerate(aligned):
            for factor in value.factors:
                left: Factor | None = factor
                for place, other in enumerate(aligned):
                    if place == index:
                        continue
                    meeting = [each for each in other.factors if varied(each) & varied(factor)]
                    if not meeting:
                        for axis in sorted(varied(factor)):
                            if left is not None and other.shape[axis] != 1:
                                left = self.freeze_axis(left, axis)
                    for each in meeting if place > index else ():
                        self.join(factor, each)
                if left is None:
                    continue
                factor, axes = left, varied(left)
                clash = [each for each in result if varied(each) & axes]
                if not clash:
                    result.append(factor)
                elif factor.size > max(each.size for each in clash):
                    result = [each for each in result if not varied(each) & axes] + [factor]
        return tuple(result)

    def solve(self) -> NDArray[np.int64]:
        """The class of every unit: classes are numbered from 0, which is that of unit 0."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._left:
            # Keep the joins short: solving is repeated while ties are added.
            self._left, self._right = [np.concatenate(self._left)], [np.concatenate(self._right)]
            ones = np.ones(self._left[0].size, dtype=np.int64)  # joins made twice add up
            graph = coo_array((ones, (self._left[0], self._right[0])), shape=(self.units, self.units))
            found = connected_components(graph, directed=False)[1].astype(np.int64)
        else:
            found = np.arange(self.units, dtype=np.int64)
        first = np.unique(found, return_index=True)[1]
        rank = np.empty(first.size, dtype=np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(first.size)
        return rank[found]
