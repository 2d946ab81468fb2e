"""Models and data for the methods' tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.export import export_onnx
from compressor.model.base import Arrays, TorchModel
from compressor.passes.base import Context
from compressor.results import ModelSummary, Score, TaskSummary, TensorSpec
from compressor.task.base import Examples, Predict


@dataclass(frozen=True)
class Data:
    """A task that has calibration examples only."""

    inputs: Arrays

    @property
    def summary(self) -> TaskSummary:
        return TaskSummary("random", "none", True, len(self.inputs[0]), 0)

    def calibration(self) -> Examples:
        return Examples(self.inputs, None)

    def training(self) -> Examples | None:
        return None

    def test(self) -> Examples:
        raise AssertionError("a method must not look at the test examples")

    def evaluate(self, predict: Predict, batch: int = 256) -> Score:
        raise AssertionError("a method must not score itself")


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Patches(nn.Module):
    """A vision transformer: a convolution in front of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        # Big enough that the exporter leaves putting the weights together to the runtime.
        self.cell = kind(40, 160, batch_first=True)
        self.head = nn.Linear(160, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.linear(x)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 16)
        self.linear = nn.Linear(16, 8)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(self.embedding(ids))
        return (y * mask.unsqueeze(-1)).sum(1), y


def _head(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Block(16), Block(16), *_head(16)), (3, 12, 12)),
    "separable": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6(),
            nn.Conv2d(16, 16, 1), nn.Hardswish(), nn.Conv2d(16, 16, 1), nn.SiLU(), *_head(16),
        ),
        (3, 12, 12),
    ),
    "one-dimensional": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(16, 4),
        ),
        (4, 20),
    ),
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), (16,)),
    "shared": (Shared, (16,)),
    "patches": (Patches, (3, 16, 16)),
    "lstm": (lambda: Recurrent(nn.LSTM), (6, 40)),
    "gru": (lambda: Recurrent(nn.GRU), (6, 40)),
    "tokens": (Tokens, (5,)),
}  # fmt: skip


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Arrays]]:
    """Name of a model to its ONNX file (made once) and 64 examples."""
    folder = tmp_path_factory.mktemp("zoo")

    def make(name: str, fixed: bool = False) -> tuple[Path, Arrays]:
        build, shape = ZOO[name]
        path = folder / f"{name}{'-fixed' if fixed else ''}.onnx"
        rng = np.random.default_rng(0)
        data: Arrays = (rng.standard_normal((64, *shape)).astype(np.float32),)
        if name == "tokens":
            data = (rng.integers(0, 10, (64, 5)), rng.random((64, 5)) > 0.3)
        if not path.exists():
            torch.manual_seed(0)
            module = build().eval()
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_var.uniform_(0.5, 2)
                    layer.running_mean.uniform_(-0.5, 0.5)
            specs = tuple(
                TensorSpec(f"in{i}", x.dtype.name, (2 if fixed else None, *x.shape[1:])) for i, x in enumerate(data)
            )
            examples = tuple(torch.from_numpy(x[:2].copy()) for x in data)
            summary = ModelSummary(name, name, "exported program", "0" * 64, 1, None, specs)
            export_onnx(TorchModel(name, module, examples, specs, summary), path)
        return path, data

    return make


@pytest.fixture
def vnni() -> Callable[[Arrays], Context]:
    """Calibration inputs to a context on a CPU with VNNI."""
    return lambda inputs: Context(Data(inputs), cpu_features=("avx2", "avx512f", "avx512_vnni"))
