"""Networks of the suite that are not pictures' (those are in ``examples/``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SignalNetwork(nn.Module):
    """Convolutions along time, then the mean over it; ``(N, channels, T)`` to ``(N, classes)`` logits.

    The design and its sizes are the FCN of Wang, Yan and Oates, "Time series classification from scratch with deep
    neural networks: a strong baseline" (IJCNN 2017).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = channels
        for width, kernel in ((128, 7), (256, 5), (128, 3)):
            layers += [nn.Conv1d(inside, width, kernel, padding=kernel // 2, bias=False), nn.BatchNorm1d(width)]
            layers.append(nn.ReLU())
            inside = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return self.head(self.features(x).mean(2))


class SoundNetwork(nn.Module):
    """3x3 convolutions over a spectrogram; ``(N, 1, bands, frames)`` to ``(N, classes)`` logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 1
        for width in (32, 64, 96, 128):
            layers += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            inside = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        return self.head(self.features(x).mean((2, 3)))


def multilayer(features: int, classes: int, width: int = 512, depth: int = 3) -> nn.Sequential:
    """A multilayer perceptron; ``(N, features)`` to ``(N, classes)`` logits.

    Its sizes are among those of Gorishniy et al. 2021, "Revisiting deep learning models for tabular data".
    """
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(features if index == 0 else width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def accuracy(model: nn.Module, inputs: tuple[Tensor, ...], y: Tensor, batch: int = 256) -> float:
    """Share of right answers."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(y), batch):
            found = model(*(x[start : start + batch] for x in inputs))
            right += int((found.argmax(1) == y[start : start + batch]).sum())
    return right / len(y)
