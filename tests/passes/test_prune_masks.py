from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_transformers import answer, reloaded, small
from topologies import topology, torch_model
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.passes.base import Context
from compressor.passes.prune_masks import Prune24, PruneUnstructured, two_of_four
from compressor.results import TaskSummary


class Drawn:
    """A task of drawn inputs, which must not be used."""

    summary = TaskSummary("synthetic", "agreement", True, 0, 0)


NO_DATA = Context(Drawn())  # type: ignore[arg-type]
SAYS = "saves neither bytes nor joules in a dense runtime"


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_smallest_weights_of_the_whole_model_are_zero(fraction: float) -> None:
    model = topology("residual")
    before = dict(model.module.named_parameters())
    masked = PruneUnstructured(fraction=fraction).apply(model, NO_DATA)
    after = dict(masked.module.named_parameters())
    names = [name for name, value in before.items() if value.ndim > 1]
    zero = torch.cat([after[name].flatten() == 0 for name in names])
    sizes = torch.cat([before[name].abs().flatten() for name in names])
    assert int(zero.sum()) == round(fraction * zero.numel())
    assert sizes[zero].max() <= sizes[~zero].min()
    for name, value in before.items():
        kept = after[name] != 0
        assert torch.equal(after[name][kept], value[kept])
        assert value.ndim > 1 or torch.equal(after[name], value)
    assert SAYS in masked.steps[-1].notes[0]
    assert masked.steps[-1].notes[1] == f"{int(zero.sum()):,} of {zero.numel():,} weights in 7 layers are 0."
    assert sum(p.numel() for p in after.values()) == sum(p.numel() for p in before.values())


def test_rules() -> None:
    model = topology("residual")
    masked = PruneUnstructured(fraction=0.5, rules=("include 5",)).apply(model, NO_DATA)
    changed = {
        name
        for name, value in masked.module.named_parameters()
        if not torch.equal(value, model.module.get_parameter(name))
    }
    assert changed == {"5.weight"}


def test_two_of_every_four_inputs() -> None:
    model = topology("residual")
    masked = Prune24().apply(model, NO_DATA)
    for name in ("1.conv1.weight", "5.weight"):
        rows = masked.module.get_parameter(name).movedim(1, -1).reshape(-1, 4)
        assert bool(((rows == 0).sum(1) == 2).all())
    assert torch.equal(masked.module.get_parameter("0.0.weight"), model.module.get_parameter("0.0.weight"))
    notes = masked.steps[-1].notes
    assert SAYS in notes[0]
    assert notes[2] == "Left alone, as their inputs do not come in fours: 0.0."


@pytest.mark.parametrize("method", [PruneUnstructured(), Prune24()])
def test_weights_of_other_layers_are_named(method: PruneUnstructured | Prune24) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cell, self.head = nn.Embedding(9, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.words(x))[0][:, -1])

    masked = method.apply(torch_model(Words(), torch.zeros(2, 5, dtype=torch.int64)), NO_DATA)
    others = "words.weight, cell.weight_ih_l0, cell.weight_hh_l0 (456 weights)"
    assert f"Left alone, as no convolution or product: {others}." in masked.steps[-1].notes


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
def test_mask_keeps_the_two_largest(rows: int, fours: int, kernel: int, seed: int) -> None:
    weight = torch.randn(rows, 4 * fours, kernel, generator=torch.Generator().manual_seed(seed))
    mask = two_of_four(weight)
    assert mask.shape == weight.shape
    values = weight.abs().movedim(1, -1).reshape(-1, 4)
    kept = mask.movedim(1, -1).reshape(-1, 4)
    assert bool((kept.sum(1) == 2).all())
    assert bool((values.masked_fill(~kept, 9).min(1).values >= values.masked_fill(kept, 0).max(1).values).all())


def test_even_of_equal_weights_two_go() -> None:
    assert two_of_four(torch.ones(1, 8)).tolist() == [[True, True, False, False] * 2]


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(MethodError) as caught:
        PruneUnstructured(fraction=fraction)
    assert str(caught.value) == f"prune-unstructured: fraction is {fraction}, not a share above 0 and below 1"


@pytest.mark.parametrize(
    ("method", "module", "message"),
    [
        (PruneUnstructured(), nn.ReLU(), "prune-unstructured: the model has no convolution or product with weights"),
        (
            PruneUnstructured(rules=("exclude *",)),
            nn.Sequential(nn.Linear(6, 2)),
            "prune-unstructured: the rules leave no layer to prune",
        ),
        (
            Prune24(),
            nn.Sequential(nn.Linear(6, 2)),
            "prune-2:4: no linear layer or convolution that may be touched has a multiple of 4 inputs",
        ),
    ],
    ids=["no layer", "excluded", "six inputs"],
)
def test_errors(method: PruneUnstructured | Prune24, module: nn.Module, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        method.apply(torch_model(module, torch.randn(2, 6)), NO_DATA)
    assert str(caught.value) == message


def test_a_hugging_face_model_stays_one(tmp_path: Path) -> None:
    model = small("bert", free=False)
    made = PruneUnstructured(fraction=0.5).apply(model, NO_DATA)
    weight = made.module.get_parameter("hf.bert.encoder.layer.0.attention.self.query.weight")
    assert 0.3 < float((weight == 0).float().mean()) < 0.7
    assert not bool((model.module.get_parameter("hf.bert.encoder.layer.0.attention.self.query.weight") == 0).any())
    torch.testing.assert_close(answer(reloaded(made, tmp_path)), answer(made), rtol=0, atol=0)
