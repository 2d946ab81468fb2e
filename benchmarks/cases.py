"""The suite: real models on real data. A case makes its model file (trained once) and says what data go with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.training import cache, export, fit, shifted_and_mirrored

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))


@dataclass(frozen=True)
class Case:
    """One model with its data.

    Attributes:
        make: Gives the model file, training it first if it is not in the cache.
        data: As ``--data`` takes it.
        about: Model, data and split in a phrase.
    """

    make: Callable[[], Path]
    data: str
    about: str


def _demo() -> Path:
    return ROOT / "compressor" / "demo" / "resnet8.pt2"


def _resnet18() -> Path:
    target = cache() / "resnet18.pt2"
    if not target.exists():
        from resnet import resnet18

        from compressor.task import fashion_mnist

        x, y = map(torch.from_numpy, fashion_mnist.load("train"))
        model = fit(resnet18(), x, y, epochs=2, peak_rate=0.1, augment=shifted_and_mirrored)
        export(model, torch.zeros(2, 1, 28, 28), target)
    return target


def _mobilenet() -> Path:
    target = cache() / "mobilenet_v2.pt2"
    if not target.exists():
        from mobilenet import mobilenet_v2, mobilenet_v2_binary

        from benchmarks.data import elpv, imagenet_weights

        whole = mobilenet_v2()
        whole.load_state_dict(imagenet_weights())
        model = mobilenet_v2_binary()
        model.features.load_state_dict(whole.features.state_dict())
        parts = elpv()
        x, y = torch.from_numpy(parts["train_x"]), torch.from_numpy(parts["train_y"])
        model = fit(model, x, y, epochs=4, peak_rate=0.02, batch=32, augment=shifted_and_mirrored)
        export(model, torch.zeros(2, 3, 160, 160), target)
    return target


CASES = {
    "resnet8": Case(_demo, "fashion-mnist", "ResNet-8, Fashion-MNIST, 10 000 official test pictures"),
    "resnet18": Case(_resnet18, "fashion-mnist", "ResNet-18, Fashion-MNIST, 10 000 official test pictures"),
    "mobilenet_v2": Case(
        _mobilenet, "benchmarks.data:elpv", "MobileNetV2 (ImageNet weights), ELPV solar cells at 160 px, 656 held out"
    ),
}
