"""MobileNetV2, as named by ``--arch examples/mobilenet.py:mobilenet_v2``; its weights' names are torchvision's.

The design is Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Expansion, channels out, repeats, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def conv_bn(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    conv = nn.Conv2d(inside, outside, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; ``(N, in, H, W)`` to ``(N, out, H/stride, W/stride)``."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn(inside, hidden, 1)]
        layers.append(conv_bn(hidden, hidden, 3, stride, groups=hidden))
        layers += [nn.Conv2d(hidden, outside, 1, bias=False), nn.BatchNorm2d(outside)]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """``(N, 3, H, W)`` to ``(N, classes)`` logits."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = [conv_bn(3, 32, 3, 2)]
        inside = 32
        for expansion, width, repeats, stride in _STAGES:
            for index in range(repeats):
                features.append(InvertedResidual(inside, width, stride if index == 0 else 1, expansion))
                inside = width
        features.append(conv_bn(inside, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.mean(self.features(x), dim=(2, 3)))


def mobilenet_v2() -> MobileNetV2:
    """The ImageNet model: 1000 classes, 3.5 M parameters."""
    return MobileNetV2()


def mobilenet_v2_binary() -> MobileNetV2:
    """Two classes, for the solar-cell benchmark."""
    return MobileNetV2(2)
