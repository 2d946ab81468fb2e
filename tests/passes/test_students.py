"""Narrower students; those with fewer layers are in ``test_distill`` and ``test_hf_students``."""

from __future__ import annotations

import pytest
import torch
from digits import accuracy, arrays, context, digest, exported, net, task, wrap
from topologies import topology
from torch import nn

from compressor.errors import MethodError
from compressor.passes.base import Context
from compressor.passes.distill import Distill
from compressor.passes.fresh import drawn_anew
from compressor.passes.graph import ChannelGraph
from compressor.passes.students import Wanted, make_student
from compressor.passes.training import finetune

INHERITED, FRESH = (Wanted("narrower", 0.5, 0.5, fresh) for fresh in (False, True))


@pytest.fixture(scope="module")
def held() -> Context:
    """A teacher of 32 channels, about 95 % right."""
    return context(task(), teacher=finetune(net(32, 1), context(task()), epochs=5, learning_rate=1e-2))


def test_every_layer_is_half_as_wide_and_keeps_the_larger_weights(held: Context) -> None:
    model = held.teacher
    assert model is not None
    before = digest(model)
    made, note = make_student(INHERITED, model, held.task.training(), held, "distill")  # type: ignore[arg-type]
    assert [graph.width(layer) for graph in [ChannelGraph(made)] for layer in graph.layers] == [16, 16, 10]
    assert note == (
        "The student's layers are 0.5 as wide: parameters 10,954 → 3,178; the weights of the channels that stay are "
        "kept. The statistics of the batch norms were measured anew on 100 calibration examples."
    )
    kept = made.module.get_parameter("stem.weight")
    theirs = model.module.stem.weight
    assert all(any(torch.equal(one, other) for other in theirs) for one in kept)
    assert digest(model) == before


@pytest.mark.parametrize("fresh", [False, True], ids=["inherited", "fresh"])
def test_a_narrower_student_learns(held: Context, fresh: bool) -> None:
    method = Distill(student="narrower", width=0.5, fresh=fresh, epochs=6, learning_rate=1e-2)
    made = method.apply(held.teacher, held)  # type: ignore[arg-type]
    assert accuracy(made.module) > 0.8
    assert made.steps[-1].notes[0].split("; ")[1].startswith("its weights" if fresh else "the weights of")


def test_new_weights_follow_the_seed_and_norms_fit_the_data(held: Context) -> None:
    x = torch.from_numpy(arrays()[0][:200])
    model = exported(net(16, 1))
    one, same, other = (drawn_anew(model, (x,), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.get_parameter("stem.weight"), other.get_parameter("stem.weight"))
    seen = torch.nn.functional.conv2d(x, one.get_parameter("stem.weight"), padding=1)
    torch.testing.assert_close(one.get_buffer("norm.running_mean"), seen.mean((0, 2, 3)))
    torch.testing.assert_close(one.get_buffer("norm.running_var"), seen.var((0, 2, 3), correction=0))
    bound = 1 / 3  # one over the root of 9 inputs
    assert float(one.get_parameter("stem.weight").abs().max()) <= bound
    assert torch.equal(one.get_parameter("norm.weight"), torch.ones(16))


@pytest.mark.parametrize("name", ["attention", "unet", "products", "tied"])
def test_new_weights_are_drawn_for_every_kind_of_layer(name: str) -> None:
    model = ChannelGraph(topology(name))
    made = model.without(model.none)
    drawn = drawn_anew(made, made.example_inputs, 7)  # not the seed of the old ones, which are drawn alike
    found = drawn(*made.example_inputs)
    assert bool(torch.isfinite(found).all())
    pairs = zip(drawn.named_parameters(), made.module.named_parameters(), strict=True)
    assert not any(torch.equal(a, b) for (_, a), (_, b) in pairs if a.ndim > 1)


def test_a_width_that_changes_nothing_is_named(held: Context) -> None:
    with pytest.raises(MethodError) as caught:
        Distill(student="narrower", width=0.95).apply(net(8), held)
    assert str(caught.value) == (
        "distill: width is 0.95, with which no layer becomes narrower; lower it: layers keep a multiple of 8 channels"
    )


def test_a_batch_norm_without_statistics_of_its_own_stays_so() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)
    )
    model = wrap(module)
    made, _ = make_student(FRESH, model, task(50).training(), context(task(50)), "distill")  # type: ignore[arg-type]
    assert made.module(*model.example_inputs).isfinite().all()
