from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressor.model.base import TorchModel
from compressor.pipeline.timing import CallTimer
from compressor.results import ModelSummary, TensorSpec
from compressor.task.base import Examples


@dataclass(frozen=True)
class Data:
    """A task that has calibration examples only."""

    count: int

    def calibration(self) -> Examples:
        return Examples((np.zeros((self.count, 64), np.float32),), None)


def model(width: int) -> TorchModel:
    specs = (TensorSpec("x", "float32", (None, 64)),)
    summary = ModelSummary("m", "m", "exported program", "0" * 64, 1, None, specs)
    module = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64)).eval()
    return TorchModel("m", module, (torch.randn(2, 64),), specs, summary)


def test_wider_models_take_longer(tmp_path: Path) -> None:
    """A hundred times the work; only the order is asserted, as the machine may be busy."""
    timer = CallTimer(Data(3), tmp_path, batch=16, threads=1)  # type: ignore[arg-type]
    narrow = timer(model(64))
    assert 0 < narrow < timer(model(6400))
    assert [path.name for path in tmp_path.rglob("*.onnx")] == ["first.onnx"]


def test_without_examples_the_models_own_is_run(tmp_path: Path) -> None:
    assert CallTimer(Data(0), tmp_path, batch=4, threads=1)(model(8)) > 0  # type: ignore[arg-type]
