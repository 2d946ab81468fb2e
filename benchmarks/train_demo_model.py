"""Train the model that the package carries, and cut the slice of data that it ships with.

Writes ``resnet8.pt2``, ``data.npz`` and ``card.json`` to ``compressor/demo/`` and prints the accuracy on the 10 000
official test pictures. About 15 minutes on two cores::

    python -m benchmarks.train_demo_model
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import ROOT
from benchmarks.training import export, fit, shifted_and_mirrored
from compressor.task import fashion_mnist

OUT = ROOT / "compressor" / "demo"


def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    with torch.inference_mode():
        right = sum((model(a).argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500), strict=True))
    return right / len(y)


def main() -> None:
    """Train, check, export, cut the slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from resnet import resnet8

    torch.manual_seed(options.seed)
    train_x, train_y = map(torch.from_numpy, fashion_mnist.load("train"))
    test_x, test_y = map(torch.from_numpy, fashion_mnist.load("test"))
    started = time.perf_counter()
    model = fit(
        resnet8(),
        train_x,
        train_y,
        epochs=options.epochs,
        peak_rate=0.1,
        seed=options.seed,
        augment=shifted_and_mirrored,
    )
    seconds = round(time.perf_counter() - started)
    export(model, (torch.zeros(2, 1, 28, 28),), OUT / "resnet8.pt2")
    # The slice: calibration from the training split, test from the test split, so they cannot overlap. Drawn, not
    # chosen: the first pictures of a seeded permutation, whatever the model makes of them.
    draw = np.random.default_rng(options.seed)
    train_at, test_at = draw.permutation(len(train_x))[:512], draw.permutation(len(test_x))[:2000]
    np.savez_compressed(
        OUT / "data.npz",
        calibration_x=(train_x[train_at] * 255).round().to(torch.uint8).numpy(),
        calibration_y=train_y[train_at].numpy().astype(np.uint8),
        test_x=(test_x[test_at] * 255).round().to(torch.uint8).numpy(),
        test_y=test_y[test_at].numpy().astype(np.uint8),
    )
    card = {
        "architecture": "examples/resnet.py:resnet8",
        "test_accuracy": accuracy(model, test_x, test_y),
        "slice_accuracy": accuracy(model, test_x[test_at], test_y[test_at]),
        "epochs": options.epochs,
        "seed": options.seed,
        "training_s": seconds,
    }
    (OUT / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print(card)


if __name__ == "__main__":
    main()
