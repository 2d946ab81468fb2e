"""Training the models that are measured; each is trained once and kept in the cache folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.environment import cpu_features


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    peak_rate: float,
    batch: int = 128,
    seed: int = 0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> nn.Module:
    """Train by SGD with momentum on a one-cycle schedule (Smith and Topin 2018); returns the model in eval mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    steps = -(-len(x) // batch)
    optimizer = torch.optim.SGD(model.parameters(), peak_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, epochs=epochs, steps_per_epoch=steps)
    started = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(x), generator=generator).split(batch):
            inputs = x[index] if augment is None else augment(x[index], generator)
            with half_products():
                found = model(inputs)
            loss = F.cross_entropy(found.float(), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(
            f"  epoch {epoch + 1}/{epochs}: {time.perf_counter() - started:.0f} s, loss {loss.item():.3f}", flush=True
        )
    return model.eval()


def half_products() -> torch.autocast:
    """Products in bfloat16 where the processor has them, at half the time; weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled="avx512_bf16" in cpu_features())


def export(model: nn.Module, example: tuple[Tensor, ...], target: Path) -> Path:
    """Write a model as an exported program with a free batch axis; the example has a batch of 2."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, example, dynamic_shapes=tuple({0: batch} for _ in example))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    beside = target.with_name(f".{target.stem}.partial.pt2")
    torch.export.save(program, beside)
    beside.replace(target)
    return target


def shifted_and_mirrored(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 2 pixels and mirror half of the batch; ``(N, C, H, W)`` to the same."""
    height, width = x.shape[2:]
    top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
    x = F.pad(x, (2, 2, 2, 2))[:, :, top : top + height, left : left + width]
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def shifted_in_time(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 8 samples, the edge repeated; ``(N, C, T)`` to the same."""
    left = int(torch.randint(0, 17, (1,), generator=generator))
    return F.pad(x, (8, 8), mode="replicate")[:, :, left : left + x.shape[2]]
