from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from topologies import TOPOLOGIES, mobilenet_v2_binary, settle, topology, torch_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import MethodError
from compressor.passes import rewriting
from compressor.passes.graph import ChannelGraph, Removed

# Layers whose product sums over the first axis of their weight; all others sum over the second.
_FIRST = {"conv_transpose2d", "matmul", "addmm"}


def some(graph: ChannelGraph, share: float, seed: int = 0, spare: str | None = None) -> Removed:
    """Classes drawn at random, leaving at least one along every axis.

    ``spare`` names weights whose classes stay: layer norms, whose statistics are over channels.
    """
    removed = np.random.default_rng(seed).random(graph.count) < share
    removed[0] = False
    for name, value in graph.weights.items():
        if spare is not None and spare in name and value.shape:
            removed[graph.along(value, 0)] = False
    for along in graph.axes:
        if removed[along].all():
            removed[along[0]] = False
    return removed


def without_effect(graph: ChannelGraph, removed: Removed) -> nn.Module:
    """The model with zeros in every weight that reads a channel which is to be removed."""
    module = copy.deepcopy(graph.model.module)
    weights = dict(module.named_parameters())
    for layer in graph.layers:
        axis = 0 if layer.op in _FIRST else 1
        dead = np.flatnonzero(removed[graph.along(graph.weights[layer.weight], axis)])
        weights[layer.weight].index_fill_(axis, torch.from_numpy(dead), 0)
    return module


# A tied table is read and written along one axis: none of its channels can be without effect.
@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "tied"])
@pytest.mark.parametrize("seed", [0, 1])
def test_channels_without_effect_can_go(name: str, seed: int) -> None:
    model = topology(name, seed)
    graph = ChannelGraph(model)
    removed = some(graph, 0.5, seed, spare="norm1" if "attention" in name else "norm")
    if "attention" in name:
        removed &= some(graph, 1.0, seed, spare="norm")
    assert removed.any()
    smaller = graph.without(removed)
    batch = torch.randn(3, *model.example_inputs[0].shape[1:])  # another batch than the one traced with
    expected, found = without_effect(graph, removed)(batch), smaller.module(batch)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    kept = sum(p.numel() for p in smaller.module.parameters())
    assert kept == graph.parameter_count(removed) < graph.parameter_count(graph.none)


def test_whole_mobilenet() -> None:
    torch.manual_seed(0)
    model = torch_model(settle(mobilenet_v2_binary().requires_grad_(False)), torch.randn(2, 3, 32, 32))
    graph = ChannelGraph(model)
    assert all(0 not in layer.channels for layer in graph.layers if layer.op == "conv2d")
    removed = some(graph, 0.6)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        graph.without(removed).module(x), without_effect(graph, removed)(x), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_prunable_layers(name: str) -> None:
    """That every layer but the last can be pruned; which heads and groups go together."""
    graph = ChannelGraph(topology(name))
    widths = {layer.name: len(set(layer.channels.tolist()) - {0}) for layer in graph.layers}
    expected = {
        "grouped": {"0": 2, "2": 2, "5": 12, "8": 0},
        "squeeze": {"stem": 8, "wide": 8, "down": 4, "up": 8, "head": 0},
        "shuffle": {"stem": 8, "left": 4, "mixed": 8, "head": 0},
        "superresolution": {"0": 4, "3": 0},
        "tied": {"table": 12, "mix": 12},
        "unet": {"down1": 8, "down2": 7, "down3": 16, "up2": 7, "up1": 2, "mix": 8, "out": 0},
        "attention": {"embed": 16, "qkv": 4, "proj": 16, "up": 20, "down": 16, "head": 0},
    }
    if name in expected:
        assert widths == expected[name]
    assert graph.untouchable == ()


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if "fused" not in name and name != "encoder"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    # Not for fused attention: on a CPU torch's counter does not see inside it.
    model = topology(name)
    graph = ChannelGraph(model)
    removed = some(graph, 0.4)
    for module, found in (
        (model.module, graph.flops(graph.none)),
        (graph.without(removed).module, graph.flops(removed)),
    ):
        with FlopCounterMode(display=False) as counter:
            module(*model.example_inputs)
        assert found == counter.get_total_flops() // 2  # a batch of 2


def test_fused_attention_counts_as_written_out() -> None:
    one, other = ChannelGraph(topology("attention")), ChannelGraph(topology("fused attention"))
    assert one.flops(one.none) == other.flops(other.none)


@pytest.mark.parametrize("name", ["residual", "encoder", "attention", "shuffle"])
def test_pruned_twice(name: str) -> None:
    model = topology(name)
    first = ChannelGraph(model)
    second = ChannelGraph(first.without(some(first, 0.3)))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    removed = some(second, 0.3, seed=1)
    smaller = second.without(removed)
    assert smaller.module(*model.example_inputs).shape == model.module(*model.example_inputs).shape
    assert sum(p.numel() for p in smaller.module.parameters()) == second.parameter_count(removed)


@pytest.mark.parametrize("name", ["encoder", "attention", "one-dimensional"])
def test_fixed_batch(name: str) -> None:
    # The sizes of every view are constants of the graph then.
    model = topology(name, free=False)
    graph = ChannelGraph(model)
    removed = some(graph, 0.5, spare="norm")
    expected = without_effect(graph, removed)(*model.example_inputs)
    torch.testing.assert_close(graph.without(removed).module(*model.example_inputs), expected, rtol=1e-4, atol=1e-5)


def test_exported_program_is_pruned_like_the_class_it_came_from() -> None:
    model = topology("residual")
    program = torch.export.export(model.module, model.example_inputs, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    one, other = ChannelGraph(model), ChannelGraph(replace(model, module=program.module()))
    removed = some(one, 0.5)
    np.testing.assert_array_equal(one.classes, other.classes)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(one.without(removed).module(x), other.without(removed).module(x))


class Odd(nn.Module):
    """An operator that nothing is known of, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.one(x))
        return self.three(torch.relu(self.two(y.sort(-1).values)))


def test_unknown_operator_is_named_and_its_channels_stay() -> None:
    graph = ChannelGraph(torch_model(Odd(), torch.randn(2, 4)))
    widths = {layer.name: len(set(layer.channels.tolist()) - {0}) for layer in graph.layers}
    assert widths == {"one": 0, "two": 8, "three": 0}
    assert len(graph.untouchable) == 1
    assert graph.untouchable[0].startswith("sort (test_graph.py:")


class Moved(nn.Module):
    """Channels shuffled by torch's own module, moved to the end and back, and some of them overwritten in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=2)
        self.shuffle, self.mixed, self.head = nn.ChannelShuffle(2), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(torch.relu(self.grouped(torch.relu(self.stem(x)))))
        x = torch.relu(self.mixed(x.movedim(1, -1))).moveaxis((3, 1), (1, 2)).tile(1, 1, 2, 1)
        x[:, :, 0] = 0
        return self.head(x.mean((2, 3)))


class Masked(nn.Module):
    """Attention as users call it, its second value dropped, and an encoder under a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attention(x, x, x)
        return self.head(self.encoder(x + y, src_key_padding_mask=padding > 0.5).mean(1))


@pytest.mark.parametrize(
    ("module", "shapes", "widths"),
    [
        (Moved, [(3, 4, 4)], {"stem": 4, "grouped": 6, "mixed": 8, "head": 0}),
        (
            Masked,
            [(5, 6), (5,)],
            {
                "embed": 16, "attention.in_proj": 4, "attention.out_proj": 16, "encoder.self_attn.in_proj": 4,
                "encoder.self_attn.out_proj": 16, "encoder.linear1": 24, "encoder.linear2": 16, "head": 0,
            },
        ),
    ],
)  # fmt: skip
def test_what_torchs_own_modules_do_is_followed(
    module: type[nn.Module], shapes: list[tuple[int, ...]], widths: dict[str, int]
) -> None:
    torch.manual_seed(0)
    graph = ChannelGraph(torch_model(settle(module().requires_grad_(False)), *(torch.rand(2, *s) for s in shapes)))
    assert {layer.name: len(set(layer.channels.tolist()) - {0}) for layer in graph.layers} == widths
    assert graph.untouchable == ()
    removed = some(graph, 0.5, spare="norm")
    batch = [torch.rand(3, *shape) for shape in shapes]
    expected = without_effect(graph, removed)(*batch)
    torch.testing.assert_close(graph.without(removed).module(*batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        (lambda: nn.LSTM(4, 8, 2, batch_first=True, bidirectional=True), 2 * 4 * 8 * (4 + 8) + 2 * 4 * 8 * (16 + 8)),
        (lambda: nn.GRU(4, 8, batch_first=True), 3 * 8 * (4 + 8)),
    ],
)
def test_recurrent_layers_keep_their_width_but_count(module: Callable[[], nn.Module], macs: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.steps = nn.Linear(6, 4), module()
            self.head = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.steps(self.embed(x))[0][:, -1])

    made = Net()
    made(torch.randn(2, 5, 6))
    graph = ChannelGraph(torch_model(made, torch.randn(2, 5, 6)))
    assert graph.flops(graph.none) == 2 * (5 * (6 * 4 + macs) + made.head.in_features * 3)
    assert [name.split(" ")[0] for name in graph.untouchable] == [type(made.steps).__name__.lower()]


def test_model_stays_as_it_is() -> None:
    model = topology("residual")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    graph = ChannelGraph(model)
    smaller = graph.without(some(graph, 0.5))
    for value in smaller.module.parameters():
        value.add_(1)
    after = model.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


class Drawn(nn.Module):
    """A network drawn at random: each block takes the last picture, or the one before it as well."""

    def __init__(self, blocks: list[tuple[str, int]], flat: bool) -> None:
        super().__init__()
        self.kinds, self.parts, width, before = [kind for kind, _ in blocks], nn.ModuleList(), 3, 3
        for kind, size in blocks:
            now = size
            if kind == "conv":
                part: nn.Module = nn.Sequential(nn.Conv2d(width, now, 3, padding=1), nn.BatchNorm2d(now), nn.ReLU())
            elif kind == "depthwise":
                now = 2 * width
                part = nn.Conv2d(width, now, 3, padding=1, groups=width)
            elif kind == "grouped":
                now = 2 * size
                part = nn.Sequential(nn.Conv2d(width, now, 1), nn.Conv2d(now, now, 1, groups=2), nn.ReLU6())
            elif kind == "norm":
                now = 2 * size
                part = nn.Sequential(nn.Conv2d(width, now, 1), nn.GroupNorm(size, now), nn.SiLU())
            elif kind == "cat":
                now, part = width + before, nn.Identity()
            elif kind == "add":
                now, part = width, nn.Conv2d(before, width, 1)
            elif kind == "residual":
                now, part = width, nn.Conv2d(width, width, 3, padding=1)
            elif kind == "gate":
                part = nn.Conv2d(width, 2 * now, 1)
            else:
                part = nn.Conv2d(width, now, 1)
            self.parts.append(part)
            width, before = now, width
        self.flat = flat
        self.head = nn.Linear(width * (16 if flat else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        y, before = x, x
        for kind, part in zip(self.kinds, self.parts, strict=True):
            if kind == "cat":
                now = torch.cat([y, before], 1)
            elif kind == "add":
                now = y + part(before)
            elif kind == "residual":
                now = torch.relu(y + part(y))
            elif kind == "gate":
                one, other = part(y).chunk(2, 1)
                now = one * torch.sigmoid(other)
            elif kind == "slice":
                z = part(y)
                now = torch.cat([z[:, 1:], z[:, :1]], 1)
            else:
                now = part(y)
            y, before = now, y
        return self.head(y.flatten(1) if self.flat else y.mean((2, 3)))


KINDS = ["conv", "depthwise", "grouped", "norm", "cat", "add", "residual", "gate", "slice"]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(2, 6)), min_size=1, max_size=6),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([0.2, 0.5, 1.0]),
)
def test_random_networks(blocks: list[tuple[str, int]], flat: bool, seed: int, share: float) -> None:
    torch.manual_seed(seed)
    model = torch_model(settle(Drawn(blocks, flat).requires_grad_(False)), torch.randn(2, 3, 4, 4))
    graph = ChannelGraph(model)
    removed = some(graph, share, seed)
    x = torch.randn(3, 3, 4, 4)
    smaller = graph.without(removed)
    torch.testing.assert_close(smaller.module(x), without_effect(graph, removed)(x), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in smaller.module.parameters()) == graph.parameter_count(removed)
    assert graph.untouchable == ()


def test_size_that_was_not_brought_up_to_date_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every operator that is followed has its sizes rewritten; here that is left out to see what would be said.
    monkeypatch.setattr(rewriting._Sizes, "_node", lambda self, node, old: None)
    graph = ChannelGraph(topology("encoder"))
    with pytest.raises(MethodError) as caught:
        graph.without(some(graph, 0.5, spare="norm"))
    assert re.fullmatch(
        r"net: (view|reshape|unflatten)( \(\w+\.py:\d+\))? does not run on fewer channels: .*; write sizes as "
        r"x\.shape\[\.\.\.\] or -1 there, or exclude the layers before it with a rule",
        str(caught.value),
    )


def test_single_head_stays() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 1, 16, batch_first=True)
    graph = ChannelGraph(torch_model(nn.Sequential(layer, nn.Linear(8, 2)), torch.randn(2, 3, 8)))
    widths = {layer.name: len(set(layer.channels.tolist()) - {0}) for layer in graph.layers}
    assert widths == {"0.self_attn.in_proj": 0, "0.self_attn.out_proj": 0, "0.linear1": 16, "0.linear2": 0, "1": 0}
