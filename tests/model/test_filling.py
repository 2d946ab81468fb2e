"""Weights put into a module that was built without them; the files that do so are tested where they are opened."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.errors import ModelError
from compressor.model.filling import fill_module

PLACE = Path("model.safetensors")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

    def forward(self, x):
        return self.body(x)


def test_every_weight_is_in_its_place_and_of_its_kind():
    torch.manual_seed(0)
    given, made = Net().eval(), Net().eval()
    given.body[1].running_mean.fill_(3.0)
    fill_module(PLACE, made, {name: value.clone() for name, value in given.state_dict().items()})
    x = torch.randn(4, 3)
    assert torch.equal(made(x), given(x))
    assert {name for name, _ in made.named_parameters()} == {name for name, _ in given.named_parameters()}
    assert {name for name, _ in made.named_buffers()} == {name for name, _ in given.named_buffers()}
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_weights_that_do_not_fit_are_named():
    weights = Net().state_dict()
    with pytest.raises(ModelError) as caught:
        fill_module(PLACE, Net(), {**weights, "tail.weight": torch.ones(1)})
    assert str(caught.value) == f"{PLACE}: holds 'tail.weight', which its module has no place for"
    del weights["body.0.bias"]
    with pytest.raises(ModelError) as caught:
        fill_module(PLACE, Net(), weights)
    assert str(caught.value) == f"{PLACE}: holds no 'body.0.bias', which its module needs"
