from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from topologies import topology

from compressor.passes.graph import ChannelGraph
from compressor.passes.grouping import MOST, Group, choose, groups_of


@given(st.integers(2, 200), st.integers(1, 32), st.integers(0, 200))
def test_what_is_kept_is_a_multiple_or_all(count: int, step: int, wanted: int) -> None:
    group = Group(("a",), np.arange(1, count + 1), step)
    removed = group.allowed(min(wanted, count))
    kept = count - removed
    assert removed == 0 or kept % step == 0
    assert 0 <= removed <= wanted
    assert kept >= max(1, count * (1 - MOST))


def test_layers_that_add_up_are_one_group() -> None:
    graph = ChannelGraph(topology("residual"))
    groups = groups_of(graph, frozenset(layer.name for layer in graph.layers), 1)
    assert [group.layers for group in groups] == [
        ("0.0", "1.conv2"), ("1.conv1",), ("2.conv1",), ("2.conv2", "2.shortcut.0"),
    ]  # fmt: skip
    assert [len(group.classes) for group in groups] == [8, 8, 16, 16]


def test_excluding_one_layer_keeps_all_that_go_with_it() -> None:
    graph = ChannelGraph(topology("residual"))
    layers = frozenset(layer.name for layer in graph.layers) - {"1.conv2"}
    assert [group.layers[0] for group in groups_of(graph, layers, 1)] == ["1.conv1", "2.conv1", "2.conv2"]


@pytest.mark.parametrize(("round_to", "step"), [(8, 4), (12, 2), (5, 5), (6, 1)])
def test_heads_count_with_their_width(round_to: int, step: int) -> None:
    # Packed queries, keys and values: 4 heads of 3 times 6 channels; what has to be a multiple is their width.
    graph = ChannelGraph(topology("attention"))
    (heads,) = groups_of(graph, frozenset({"qkv"}), round_to)
    assert len(heads.classes) == 4
    assert heads.step == step


def test_groups_shrink_one_by_one_where_all_at_once_is_more_than_enough() -> None:
    graph = ChannelGraph(topology("mlp"))  # layers of 16 and 12, which shrink by 4 at a time
    groups = groups_of(graph, frozenset(layer.name for layer in graph.layers), 4)
    scores = np.random.default_rng(0).random(graph.count)
    scores[groups[1].classes] += 9  # nearly the same for all: relative to the others of their layer they matter more

    def widths(share: float) -> list[int]:
        limit = (1 - share) * graph.parameter_count(graph.none)
        removed = choose(graph, groups, scores, graph.parameter_count, limit, uniform=True)
        assert graph.parameter_count(removed) <= limit
        return [int((~removed[group.classes]).sum()) for group in groups]

    assert [widths(share) for share in (0.1, 0.3, 0.5)] == [[12, 12], [12, 8], [8, 8]]


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("name", ["residual", "dense", "encoder", "shuffle"])
def test_no_axis_is_emptied(name: str, uniform: bool) -> None:
    graph = ChannelGraph(topology(name))
    groups = groups_of(graph, frozenset(layer.name for layer in graph.layers), 1)
    scores = np.random.default_rng(0).random(graph.count)
    removed = choose(graph, groups, scores, graph.parameter_count, 0, uniform=uniform)
    assert removed.any()
    assert not removed[0]
    assert not any(removed[along].all() for along in graph.axes)
