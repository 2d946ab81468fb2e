"""The transformer of the suite: MiniLM-L6 fine-tuned on Reuters R8, as a Hugging Face folder and as a module."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import data
from benchmarks.fetch import cache
from benchmarks.training import half_products


class Logits(nn.Module):
    """A Hugging Face classifier as a plain module; three inputs ``(N, T)`` to logits ``(N, classes)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:  # noqa: D102
        return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def folder() -> Path:
    """The fine-tuned model as a Hugging Face folder, trained first if it is not in the cache."""
    target = cache() / "r8-minilm"
    if not target.exists():
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        names = dict(enumerate(data.R8_CLASSES))
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            data.minilm(), num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
        )
        tune(Logits(model), epochs=2)
        partial = target.with_name("r8-minilm.partial")
        model.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(data.minilm())
        tokenizer.model_max_length = data.TOKENS
        tokenizer.save_pretrained(partial)
        partial.rename(target)
    return target


def classifier() -> Logits:
    """The fine-tuned model as a plain module."""
    from transformers import AutoModelForSequenceClassification

    return Logits(AutoModelForSequenceClassification.from_pretrained(folder())).eval()


def tune(model: nn.Module, *, epochs: int, rate: float = 1e-4, batch: int = 32) -> nn.Module:
    """Train by AdamW on a rate that warms up over a tenth of the steps and falls to 0; returns it in eval mode."""
    arrays = data.r8()
    ids, mask, y = (torch.from_numpy(arrays[f"train_{key}"]) for key in ("input_ids", "attention_mask", "y"))
    generator = torch.Generator().manual_seed(0)
    steps = epochs * -(-len(y) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 10 * (step + 1) / steps) * (1 - step / steps)
    )
    started = time.perf_counter()
    model.train()
    for epoch in range(epochs):
        for number, rows in enumerate(torch.randperm(len(y), generator=generator).split(batch)):
            # The longest of these texts, not the longest that may come: padding is masked anyway.
            length = int(mask[rows].sum(1).max())
            some, seen = ids[rows, :length], mask[rows, :length]
            with half_products():
                found = model(some, seen, torch.zeros_like(some))
            loss = F.cross_entropy(found.float(), y[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if number % 50 == 0:
                elapsed = time.perf_counter() - started
                print(
                    f"  epoch {epoch + 1}/{epochs}, step {number}: {elapsed:.0f} s, loss {loss.item():.3f}", flush=True
                )
    return model.eval()
