"""Residual networks for small pictures, as named by ``--arch examples/resnet.py:resnet8``.

The design is He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with the small-picture stem of its
section 4.2: one 3x3 convolution and no pooling before the stages.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ``(N, in, H, W)`` to ``(N, out, H/stride, W/stride)``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network; ``(N, channels, H, W)`` floats in [0, 1] to ``(N, classes)`` logits."""

    def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        inside = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for index in range(count):
                layers.append(BasicBlock(inside, width, stride=2 if stage > 0 and index == 0 else 1))
                inside = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(F.relu(self.bn(self.stem(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


def resnet8() -> ResNet:
    """The demo's model: three stages of one block, 32 to 128 channels, 0.31 M parameters."""
    return ResNet((1, 1, 1), (32, 64, 128))


def resnet18() -> ResNet:
    """ResNet-18 with the small-picture stem, 11.2 M parameters."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512))
