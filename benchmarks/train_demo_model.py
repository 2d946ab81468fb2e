"""Train the model that the package carries, and cut the slice of data that it ships with.

Writes ``resnet8.pt2`` (the exported program), ``data.npz`` (the slice) and ``card.json`` to ``compressor/demo/`` and prints
the accuracy on the 10 000 official test pictures. About 15 minutes on two cores::

    python benchmarks/train_demo_model.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.task import fashion_mnist

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from resnet import resnet8

OUT = Path(__file__).parents[1] / "compressor" / "demo"
BATCH = 128


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 2 pixels and mirror half of the batch; ``(N, 1, 28, 28)`` to the same."""
    top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
    x = F.pad(x, (2, 2, 2, 2))[:, :, top : top + 28, left : left + 28]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def accuracy(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in eval mode."""
    model.eval()
    with torch.inference_mode():
        right = sum((model(a).argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500), strict=True))
    return right / len(y)


def main() -> None:
    """Train, check, export, cut the slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train_x, train_y = map(torch.from_numpy, fashion_mnist.load("train"))
    test_x, test_y = map(torch.from_numpy, fashion_mnist.load("test"))
    model = resnet8()
    steps = -(-len(train_x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=options.epochs, steps_per_epoch=steps)
    started = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        for index in torch.randperm(len(train_x), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(augment(train_x[index], generator)), train_y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: {time.perf_counter() - started:.0f} s, loss {loss.item():.3f}", flush=True)

    reached = accuracy(model, test_x, test_y)
    print(f"accuracy on the 10 000 test pictures: {reached:.4f}")
    OUT.mkdir(exist_ok=True)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds the paths of the machine that trained it
    torch.export.save(program, OUT / "resnet8.pt2")
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
        "test_accuracy": reached,
        "slice_accuracy": accuracy(model, test_x[test_at], test_y[test_at]),
        "epochs": options.epochs,
        "seed": options.seed,
        "training_s": round(time.perf_counter() - started),
    }
    (OUT / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print(card)


if __name__ == "__main__":
    main()
