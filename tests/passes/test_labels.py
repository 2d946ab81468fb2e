from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.passes.labels import FROZEN, Coupling, Labelled, reshape_factor


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements, cut from one list of factors."""
    pieces = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))

    def cut() -> tuple[int, ...]:
        ends = sorted(draw(st.lists(st.integers(0, len(pieces)), max_size=3)))
        edges = [0, *ends, len(pieces)]
        return tuple(prod(pieces[a:b]) for a, b in pairwise(edges))

    return cut(), cut()


@given(reshapes(), st.data())
def test_factor_follows_a_reshape_as_every_element_does(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    old, new = shapes
    axis = data.draw(st.integers(0, len(old) - 1))
    factor = np.arange(1, old[axis] + 1).reshape([size if each == axis else 1 for each, size in enumerate(old)])
    found = np.broadcast_to(reshape_factor(factor, old, new), new)
    np.testing.assert_array_equal(found, np.broadcast_to(factor, old).reshape(new))


def test_axes_that_a_factor_does_not_vary_on_are_not_written_out() -> None:
    factor = np.arange(1, 9).reshape(1, 8, 1, 1)
    assert reshape_factor(factor, (2, 8, 500, 500), (2, 8, 250_000)).shape == (1, 8, 1)
    assert reshape_factor(factor, (2, 8, 3, 5), (2, 120)).shape == (1, 120)
    # There and back again.
    flat = reshape_factor(factor, (2, 8, 3, 5), (2, 120))
    np.testing.assert_array_equal(reshape_factor(flat, (2, 120), (2, 8, 3, 5)), factor)


def test_weight_has_units_for_every_axis_longer_than_one() -> None:
    coupling = Coupling()
    weight = coupling.new((3, 1, 2))
    assert [factor.shape for factor in weight.factors] == [(3, 1, 1), (1, 1, 2)]
    assert coupling.units == 6


def test_broadcasting_joins_and_what_has_no_channels_freezes() -> None:
    coupling = Coupling()
    one, other = coupling.new((4,)), coupling.new((3, 4))
    (rows, columns) = coupling.couple([one, other], (3, 4))[::-1]
    classes = coupling.solve()
    np.testing.assert_array_equal(classes[one.factors[0]], classes[other.factors[1].ravel()])
    assert len(np.unique(classes)) == 1 + 4 + 3
    assert {rows.shape, columns.shape} == {(3, 1), (1, 4)}
    assert coupling.couple([one, Labelled((4,))], (4,)) == ()
    assert (coupling.solve()[one.factors[0]] == FROZEN).all()


def test_many_joins_of_the_same_units_are_one() -> None:
    coupling = Coupling()
    weight = coupling.new((2,))
    for _ in range(300):  # would overflow a byte
        coupling.join(weight.factors[0][:1], weight.factors[0][1:])
    assert coupling.solve().tolist() == [0, 1, 1]


@pytest.mark.parametrize("shape", [(4, 3), (1, 3)])
def test_frozen_axis(shape: tuple[int, int]) -> None:
    coupling = Coupling()
    units = coupling.new((12,)).factors[0]
    joint = units[: prod(shape)].reshape(shape)
    left = coupling.freeze_axis(joint, 1, "why")
    if shape[0] > 1:  # tied along the axis, free along the other
        assert left is not None
        assert left.shape == (4, 1)
        assert coupling.reasons == []
        assert len(np.unique(coupling.solve()[joint])) == 4
    else:
        assert left is None
        assert coupling.reasons[0][1] == "why"
        assert (coupling.solve()[joint] == FROZEN).all()
