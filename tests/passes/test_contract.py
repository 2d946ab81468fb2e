"""What every method that works on torch models has to hold to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from topologies import torch_model
from torch import nn

from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.registry import make_pass, method_names, works_on_torch
from compressor.results import TaskSummary
from compressor.task.base import Examples

METHODS = [name for name in method_names() if works_on_torch(name)]


@dataclass(frozen=True)
class Labelled:
    """A task with examples to calibrate and to train on, and none to test on."""

    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("random", "accuracy", False, 64, 0)

    def calibration(self) -> Examples:
        rng = np.random.default_rng(0)
        return Examples((rng.standard_normal((64, 3, 6, 6)).astype(np.float32),), rng.integers(0, 5, 64))

    def training(self) -> Examples:
        return self.calibration()


def convnet(exported: bool) -> TorchModel:
    torch.manual_seed(0)
    module: nn.Module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    model = torch_model(module, torch.randn(2, 3, 6, 6))
    if not exported:
        return model
    free = ({0: torch.export.Dim.DYNAMIC},)
    return replace(model, module=torch.export.export(module, model.example_inputs, dynamic_shapes=free).module())


def fingerprint(model: TorchModel) -> str:
    digest = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        digest.update(f"{name} {value.dtype} {value.requires_grad}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("exported", [False, True], ids=["class", "program"])
@pytest.mark.parametrize("name", METHODS)
def test_model_that_comes_in_stays_as_it_is(name: str, exported: bool, tmp_path: Path) -> None:
    model = convnet(exported)
    x = model.example_inputs
    before, outputs = fingerprint(model), model.module(*x).clone()
    method = make_pass(name)
    known = {field.name for field in fields(method)}  # type: ignore[arg-type]
    method = make_pass(name, **{"epochs": 1} if "epochs" in known else {})
    changed = method.apply(model, Context(Labelled(), workdir=tmp_path, teacher=model))  # type: ignore[arg-type, call-arg]
    assert isinstance(changed, TorchModel)
    for weight in changed.module.parameters():
        weight.detach().add_(1)  # nothing is shared with what came in
    assert fingerprint(model) == before
    assert torch.equal(model.module(*x), outputs)
    assert changed.module(*x).shape == outputs.shape
    assert changed.steps[: len(model.steps)] == model.steps
    assert changed.steps[-1].method == name
    assert not any(weight.requires_grad for weight in changed.module.parameters())
