from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from topologies import topology, torch_model
from torch import nn

from compressor.errors import MethodError
from compressor.passes.base import Context
from compressor.passes.graph import ChannelGraph
from compressor.passes.importance import importance
from compressor.results import TaskSummary
from compressor.task.base import Examples


@dataclass(frozen=True)
class Labelled:
    """A task with training examples only."""

    examples: Examples | None

    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("random", "accuracy", False, 0, 0)

    def training(self) -> Examples | None:
        return self.examples


def context(shape: tuple[int, ...], count: int = 70, seed: int = 0) -> Context:
    rng = np.random.default_rng(0)
    examples = Examples((rng.standard_normal((count, *shape)).astype(np.float32),), rng.integers(0, 2, count))
    return Context(Labelled(examples), seed=seed)  # type: ignore[arg-type]


def two_layers(change: Callable[[nn.Sequential], None] = lambda net: None) -> ChannelGraph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        change(net)
    return ChannelGraph(torch_model(net, torch.randn(2, 6)))


def hidden(graph: ChannelGraph, kind: str) -> np.ndarray:
    """Importance of the hidden neurons, in their order."""
    return importance(graph, kind, context((6,)))[graph.layers[0].channels]  # type: ignore[arg-type]


def test_magnitude_is_the_norm_over_both_layers() -> None:
    graph = two_layers()
    one, other = graph.parameters["0.weight"].detach(), graph.parameters["2.weight"].detach()
    expected = (one.pow(2).sum(1) + other.pow(2).sum(0)).sqrt()
    np.testing.assert_allclose(hidden(graph, "magnitude"), expected.numpy(), rtol=1e-6)


def test_taylor_is_the_squared_sum_of_weight_times_gradient() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = ChannelGraph(torch_model(net, torch.randn(2, 6)))
    where = context((6,), count=32)  # one batch
    examples = where.task.training()
    assert examples is not None
    net.requires_grad_(True)
    outputs = net(torch.from_numpy(examples.inputs[0]))
    nn.functional.cross_entropy(outputs, torch.from_numpy(examples.targets)).backward()
    first, second = net[0], net[2]
    # Biases belong to the neuron as well.
    sums = (first.weight * first.weight.grad).sum(1) + first.bias * first.bias.grad
    sums = sums + (second.weight * second.weight.grad).sum(0)
    found = importance(graph, "taylor", where)[graph.layers[0].channels]
    np.testing.assert_allclose(found, sums.detach().numpy() ** 2, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["magnitude", "taylor"])
def test_permuting_neurons_permutes_their_importance(kind: str) -> None:
    order = torch.tensor([3, 1, 7, 0, 6, 2, 5, 4])

    def permute(net: nn.Sequential) -> None:
        net[0].weight.copy_(net[0].weight[order].clone())
        net[0].bias.copy_(net[0].bias[order].clone())
        net[2].weight.copy_(net[2].weight[:, order].clone())

    np.testing.assert_allclose(hidden(two_layers(permute), kind), hidden(two_layers(), kind)[order], rtol=1e-4)


def test_scaling_all_weights_scales_magnitudes() -> None:
    def scale(net: nn.Sequential) -> None:
        for weight in net.parameters():
            weight.mul_(3)

    np.testing.assert_allclose(hidden(two_layers(scale), "magnitude"), 3 * hidden(two_layers(), "magnitude"), rtol=1e-5)


def test_taylor_does_not_change_when_relu_lets_a_scale_through() -> None:
    # Twice the weights in, half of them out is the same function; Taylor sees functions, magnitude does not.
    def shift(net: nn.Sequential) -> None:
        net[0].weight.mul_(2)
        net[0].bias.mul_(2)
        net[2].weight.mul_(0.5)

    np.testing.assert_allclose(hidden(two_layers(shift), "taylor"), hidden(two_layers(), "taylor"), rtol=1e-3)
    assert not np.allclose(hidden(two_layers(shift), "magnitude"), hidden(two_layers(), "magnitude"))


def test_random_follows_the_seed() -> None:
    graph = two_layers()
    draws = [importance(graph, "random", context((6,), seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_taylor_leaves_no_gradients_behind() -> None:
    graph = two_layers()
    hidden(graph, "taylor")
    assert all(p.grad is None and not p.requires_grad for p in graph.model.module.parameters())


def test_taylor_with_a_fixed_batch() -> None:
    model = topology("mlp", free=False)
    found = importance(ChannelGraph(model), "taylor", context((6,), count=5))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (None, "prune: there are no training examples; give data with a part to train on"),
        (
            Examples((np.zeros((4, 6), np.float32),), None),
            "prune: the training examples have no labels; give data with labels",
        ),
    ],
)
def test_taylor_needs_labels(examples: Examples | None, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        importance(two_layers(), "taylor", replace(context((6,)), task=Labelled(examples)))  # type: ignore[arg-type]
    assert str(caught.value) == message
