from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import Digits
from tiny_transformers import answer, data, reloaded, small
from torch import nn

from compressor.errors import MethodError
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.graph import Removed
from compressor.passes.grouping import same_share
from compressor.passes.hf_prune import TransformerGraph
from compressor.passes.importance import importance
from compressor.passes.prune import Prune
from compressor.task.base import Examples

FREE = ["bert", "distilbert", "roberta classes", "albert", "vit"]
"""Kinds whose layers may have different numbers of heads."""


def labelled(model: TorchModel, count: int = 8) -> Context:
    x = data(model.module.hf, count)
    y = np.random.default_rng(1).integers(0, 2, count)
    return Context(Digits(Examples(x, y), Examples(x, None)), teacher=model)


def tensors(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def without_effect(graph: TransformerGraph, removed: Removed) -> nn.Module:
    """The model with zeros in every weight that reads a head or a neuron which is to be removed."""
    module = copy.deepcopy(graph.model.module)
    weights = dict(module.named_parameters(remove_duplicate=False))
    for layer in graph.layers:
        axis = 0 if layer.op == "addmm" else 1
        dead = np.flatnonzero(removed[graph.along(graph.weights[layer.weight], axis)])
        with torch.no_grad():
            weights[layer.weight].index_fill_(axis, torch.from_numpy(dead), 0)
    return module


def heads(config: Any) -> list[int]:
    return [config.num_attention_heads - len(config.pruned_heads.get(i, ())) for i in range(config.num_hidden_layers)]


@pytest.mark.parametrize("name", [*FREE, "gpt2", "llama", "wav2vec2"])
def test_what_is_left_computes_what_the_cut_graph_does_and_loads_again(name: str, tmp_path: Path) -> None:
    model = small(name, free=name == "bert")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    config = model.module.hf.config.to_dict()
    graph = TransformerGraph(model)
    groups = graph.groups(frozenset(layer.name for layer in graph.layers), 8)
    removed = same_share(graph, groups, np.random.default_rng(0).random(graph.count), 0.5)
    smaller = graph.without(removed)
    count = len(graph.model.inputs)
    for expected, found in zip(
        tensors(without_effect(graph, removed)(*model.example_inputs[:count])),
        tensors(smaller.module(*smaller.example_inputs[:count])),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    again = reloaded(smaller, tmp_path)
    torch.testing.assert_close(answer(again), answer(smaller), rtol=0, atol=0)
    assert [(spec.name, spec.shape) for spec in again.inputs] == [(spec.name, spec.shape) for spec in smaller.inputs]
    assert sum(p.numel() for p in smaller.module.parameters()) < sum(p.numel() for p in model.module.parameters())
    after = model.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.module.hf.config.to_dict() == config


@pytest.mark.parametrize("kind", ["magnitude", "taylor", "random"])
def test_a_share_of_the_operations_goes_by_importance(kind: Any) -> None:
    model = small("bert", free=False)
    smaller = Prune(flops=0.3, importance=kind).apply(model, labelled(model))
    step = smaller.steps[-1]
    assert 0.3 <= float(step.settings["removed_flops"] or 0) < 0.42
    assert step.notes[1].startswith("Heads per layer: 4 → ")
    assert step.notes[2] == "Neurons of every feed-forward block: 64 → 40."


def test_unimportant_heads_go_wherever_they_are() -> None:
    model = small("bert", free=False)
    layer = model.module.hf.bert.encoder.layer
    with torch.no_grad():
        for block, head in ((0, 1), (0, 2), (1, 0)):
            for part in (layer[block].attention.self.query, layer[block].attention.self.key):
                part.weight[8 * head : 8 * head + 8] *= 1e-3
            layer[block].attention.self.value.weight[8 * head : 8 * head + 8] *= 1e-3
            layer[block].attention.output.dense.weight[:, 8 * head : 8 * head + 8] *= 1e-3
    smaller = Prune(flops=0.15, rules=("include *attention.self* linear",)).apply(model, labelled(model))
    assert smaller.module.hf.config.pruned_heads == {0: [1, 2], 1: [0]}
    assert smaller.steps[-1].notes[1] == "Heads per layer: 4 → 2, 3."
    uniform = Prune(flops=0.15, scope="uniform", rules=("include *attention.self* linear",))
    assert heads(uniform.apply(model, labelled(model)).module.hf.config) == [2, 2]


def test_pruned_twice_remembers_the_first_heads(tmp_path: Path) -> None:
    model = small("bert", free=False)
    first = Prune(flops=0.2).apply(model, labelled(model))
    second = Prune(flops=0.2).apply(first, labelled(model))
    once, twice = (made.module.hf.config.pruned_heads for made in (first, second))
    assert all(set(once[block]) <= set(twice[block]) for block in once)
    assert once != twice
    torch.testing.assert_close(answer(reloaded(second, tmp_path)), answer(second), rtol=0, atol=0)


def test_steps_with_fine_tuning_stay_a_hugging_face_model(tmp_path: Path) -> None:
    model = small("bert", free=False)
    smaller = Prune(parameters=0.2, steps=2, finetune_epochs=1).apply(model, labelled(model))
    step = smaller.steps[-1]
    assert step.settings["learning_rate"] == 5e-5
    assert sum(note.startswith("Step ") for note in step.notes) == 2
    torch.testing.assert_close(answer(reloaded(smaller, tmp_path)), answer(smaller), rtol=0, atol=0)


def test_time_is_searched_for_here_too() -> None:
    def seconds(model: TorchModel) -> float:  # stands for a clock
        return 1e-3 + 1e-7 * sum(p.numel() for p in model.module.parameters())

    model = small("bert", free=False)
    context = Context(labelled(model).task, measure=seconds)
    smaller = Prune(time=0.1).apply(model, context)
    assert 1 - seconds(smaller) / seconds(model) >= 0.1


def test_keys_and_values_that_heads_share_go_with_all_of_them(tmp_path: Path) -> None:
    model = small("llama", free=False)
    smaller = Prune(flops=0.4).apply(model, labelled(model))
    config = smaller.module.hf.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert "Heads per layer, those with keys and values of their own: 2 → 1." in smaller.steps[-1].notes
    assert {spec.shape[1] for spec in smaller.inputs if "past" in spec.name} == {1}
    made = smaller.module.hf.generate(torch.ones(1, 3, dtype=torch.int64), max_new_tokens=2, do_sample=False)
    assert made.shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("wav2vec2", "All heads stay: a wav2vec2 configuration ties their number to hidden_size."),
        ("gpt2", "All heads stay: a gpt2 model's cache has as many in every layer as it was made with."),
    ],
)
def test_heads_that_have_to_stay_are_named(name: str, remark: str) -> None:
    model = small(name, free=False)
    smaller = Prune(parameters=0.1).apply(model, labelled(model))
    assert remark in smaller.steps[-1].notes
    rule = Prune(
        rules=("include *q_proj", "include *k_proj", "include *v_proj") if name == "wav2vec2" else ("include *attn*",)
    )
    with pytest.raises(MethodError) as caught:
        rule.apply(model, labelled(model))
    assert str(caught.value).endswith(
        f"inputs or outputs, meets a tensor of fixed size, or is the only one; {remark.rstrip('.')}"
    )


def test_widths_that_are_one_for_all_layers_go_in_all_or_in_none() -> None:
    model = small("bert", free=False)
    with pytest.raises(MethodError) as caught:
        Prune(rules=("exclude *layer.0.intermediate*",)).apply(model, labelled(model))
    assert str(caught.value) == (
        "prune: the rules leave the neurons of some layers alone, and a bert configuration has one number for all; "
        "let them touch the neurons of all layers or of none"
    )


def test_a_network_of_convolutions_becomes_a_graph() -> None:
    model = small("resnet", free=False)
    smaller = Prune(parameters=0.2, round_to=1).apply(model, labelled(model))
    assert (
        "The result is an exported program: a resnet configuration cannot say such widths." in smaller.steps[-1].notes
    )
    assert isinstance(smaller.module, torch.fx.GraphModule)
    assert smaller.module(*model.example_inputs).shape == (2, 2)


def test_taylor_looks_at_the_labels() -> None:
    model = small("bert", free=False)
    graph = TransformerGraph(model)
    one, other = labelled(model), labelled(model)
    flipped = Examples(other.task.training().inputs, 1 - other.task.training().targets)  # type: ignore[union-attr, operator]
    changed = Context(Digits(flipped, flipped))
    assert not np.allclose(importance(graph, "taylor", one), importance(graph, "taylor", changed))
