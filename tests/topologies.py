"""Small networks of every topology that pruning has to follow; names are by what is special about them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.model.base import TorchModel
from compressor.results import ModelSummary, TensorSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from mobilenet import InvertedResidual, conv_bn, mobilenet_v2_binary
from resnet import BasicBlock

__all__ = ["TOPOLOGIES", "mobilenet_v2_binary", "settle", "topology", "torch_model"]


def torch_model(module: nn.Module, *inputs: Tensor, free: bool = True) -> TorchModel:
    """A model as loading gives it."""
    module.eval().requires_grad_(False)
    specs = tuple(
        TensorSpec(f"in{i}", str(x.dtype).removeprefix("torch."), (None if free else len(x), *x.shape[1:]))
        for i, x in enumerate(inputs)
    )
    summary = ModelSummary("net", "net.pt", "pickled module", "0" * 64, 1, None, specs)
    return TorchModel("net", module, inputs, specs, summary)


def settle(module: nn.Module) -> nn.Module:
    """Give norms statistics and weights as training does, so that they change something."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return module


class Dense(nn.Module):
    """Concatenations of concatenations, a norm behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.two = nn.Conv2d(12, 4, 3, padding=1)
        self.head = nn.Linear(16 + 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        y = torch.cat([y, F.relu(self.one(y))], 1)
        z = F.relu(self.two(self.norm(y)))
        return self.head(torch.cat([y, z, x], 1).mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by resizing, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 8, 3, padding=1)
        self.down2 = nn.Conv2d(8, 16, 3, padding=1)
        self.down3 = nn.Conv2d(16, 16, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.up1 = nn.ConvTranspose2d(28, 8, 1, groups=4)
        self.mix = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.down1(x))
        b = F.silu(self.down2(F.max_pool2d(a, 2)))
        c = F.gelu(self.down3(F.avg_pool2d(b, 2)))
        y = torch.cat([self.up2(c), b], 1)
        y = F.interpolate(self.up1(y), scale_factor=2, mode="nearest")
        return self.out(F.relu(self.mix(torch.cat([y, a], 1))))


class Squeeze(nn.Module):
    """Squeeze and excitation, a PReLU, a per-channel weight of its own, a shortcut padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 12, 3, padding=1)
        self.act = nn.PReLU(12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.act(self.wide(x))
        y = y * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1))))) * self.scale
        y = y + F.pad(x, (0, 0, 0, 0, 2, 2))
        return self.head(y.mean([2, 3]))


class Shuffle(nn.Module):
    """Two halves, grouped convolutions, and channels shuffled between the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.mixed = nn.Conv2d(16, 16, 1, groups=2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.stem(x)).chunk(2, 1)
        y = torch.cat([self.left(a), b], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.mixed(y)).mean((2, 3)))


class Attention(nn.Module):
    """Attention as written by hand: packed, its heads in a view with their numbers written out."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.embed = nn.Linear(6, 16)
        self.position = nn.Parameter(torch.randn(1, 5, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 3 * 24), nn.Linear(24, 16)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(20, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        y = self.norm1(x)
        q, k, v = self.qkv(y).reshape(-1, 5, 3, 4, 6).permute(2, 0, 3, 1, 4)
        if self.fused:
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            z = ((q @ k.transpose(-2, -1)) / 6**0.5).softmax(-1) @ v
        x = x + self.proj(z.transpose(1, 2).reshape(-1, 5, 24))
        return self.head((x + self.down(F.glu(self.up(self.norm2(x))))).mean(1))


class Products(nn.Module):
    """A multilayer perceptron of plain products, one weight used twice the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 12))
        self.bias = nn.Parameter(torch.randn(12))
        self.head = nn.Parameter(torch.randn(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, torch.tanh(x @ self.one), self.two)
        return torch.einsum("bi,oi->bo", F.relu(y), self.head)


class Tied(nn.Module):
    """Token embeddings whose table is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.mix = nn.Linear(12, 12)

    def forward(self, ids: Tensor) -> Tensor:
        y = self.table(ids)
        y = (y + torch.relu(self.mix(y))).mean(1)
        return F.linear(y, self.table.weight)


def residual() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3), BasicBlock(8, 8, 1), BasicBlock(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip


def separable() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2), InvertedResidual(8, 8, 1, 3), InvertedResidual(8, 12, 2, 2),
        nn.Conv2d(12, 24, 3, padding=1, groups=12), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 4, 4),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=8), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 24, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 36, 4),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 6, 10), nn.ReLU(), nn.Linear(10, 1),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 2)
    )


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, activation="gelu")
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(80, 3))


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 6, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip


def superresolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))


PICTURE, SIGNAL, ROW, SEQUENCE = (3, 8, 8), (4, 20), (6,), (5, 6)

TOPOLOGIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (residual, PICTURE),
    "separable": (separable, PICTURE),
    "grouped": (grouped, PICTURE),
    "dense": (Dense, PICTURE),
    "unet": (UNet, PICTURE),
    "squeeze": (Squeeze, PICTURE),
    "shuffle": (Shuffle, PICTURE),
    "one-dimensional": (one_dimensional, SIGNAL),
    "volumes": (volumes, (2, 4, 4, 4)),
    "superresolution": (superresolution, PICTURE),
    "mlp": (mlp, ROW),
    "products": (Products, ROW),
    "attention": (lambda: Attention(fused=False), SEQUENCE),
    "fused attention": (lambda: Attention(fused=True), SEQUENCE),
    "encoder": (encoder, (5, 16)),
    "tied": (Tied, (5,)),
}


def topology(name: str, seed: int = 0, free: bool = True) -> TorchModel:
    """One of the networks, with weights and an example batch of 2."""
    torch.manual_seed(seed)
    build, shape = TOPOLOGIES[name]
    module = settle(build().requires_grad_(False))
    x = torch.randint(0, 20, (2, *shape)) if name == "tied" else torch.randn(2, *shape)
    return torch_model(module, x, free=free)
