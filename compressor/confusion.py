"""What moved between two classifiers on the same examples: per class, and which examples flipped. Pure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.results import ClassMoved, Confusion, Flip
from compressor.task.base import Examples

SHOWN = 24
"""Flipped examples that are kept; the broken ones come first."""
MOST_CLASSES = 1000
SIDE = 56
"""Largest side of a kept picture, in pixels."""
_TEXT = 200


def answers(outputs: NDArray[np.generic]) -> NDArray[np.int64] | None:
    """Class numbers of a model's first output.

    Args:
        outputs: ``(N, C)`` scores, or ``(N,)``/``(N, 1)`` of two classes: probabilities in 0..1, else logits.

    Returns:
        ``(N,)``, by the rule of :mod:`compressor.task.metrics`; ``None`` where the outputs are no class scores.
    """
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(1), np.int64)
    if outputs.ndim == 2:
        outputs = outputs[:, 0]
    if outputs.ndim != 1:
        return None
    if np.issubdtype(outputs.dtype, np.integer):
        return np.asarray(outputs, np.int64)
    values = np.asarray(outputs, float)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    return np.asarray(values > (0.5 if low >= -0.01 and high <= 1.01 else 0.0), np.int64)


def confusion(
    baseline: str,
    candidate: str,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    examples: Examples,
    *,
    class_names: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Confusion | None:
    """Compare two classifiers' outputs, example by example.

    Args:
        baseline: Name of the one arm.
        candidate: Name of the other.
        before: The baseline's first output on all examples, ``(N, C)`` or ``(N,)``.
        after: The candidate's.
        examples: The test examples; targets ``(N,)`` are class numbers.
        class_names: Names by class number; numbers stand for those that have none.
        texts: The examples as text, ``(N,)``, where the task has them.

    Returns:
        What moved; ``None`` for anything that is no classification, and above :data:`MOST_CLASSES` classes.
    """
    targets = examples.targets
    if targets is None or targets.ndim != 1 or not len(targets):
        return None
    if not np.issubdtype(targets.dtype, np.integer) and not np.issubdtype(targets.dtype, np.bool_):
        return None
    truth, old, new = np.asarray(targets, np.int64), answers(before), answers(after)
    if old is None or new is None or len(old) != len(truth) or len(new) != len(truth):
        return None
    count = int(max(truth.max(), old.max(), new.max())) + 1
    if count > MOST_CLASSES or min(truth.min(), old.min(), new.min()) < 0:
        return None
    names = [class_names[i] if i < len(class_names) else str(i) for i in range(count)]
    classes = tuple(
        ClassMoved(
            names[i],
            int((truth == i).sum()),
            int(((truth == i) & (old == i)).sum()),
            int(((truth == i) & (new == i)).sum()),
            int(((truth == i) & (old == i) & (new != i)).sum()),
        )
        for i in range(count)
        if (truth == i).any()
    )
    broken = np.flatnonzero((old == truth) & (new != truth))
    mended = np.flatnonzero((old != truth) & (new == truth))
    moved = np.flatnonzero((old != truth) & (new != truth) & (old != new))
    # Both ways are shown, so that a handful of either is never hidden behind the other.
    half = SHOWN // 2
    first = [*broken[:half], *mended[:half]]
    rest = [i for i in (*broken[half:], *mended[half:], *moved) if i not in first][: SHOWN - len(first)]
    chosen = sorted(set(first) | set(rest), key=lambda i: (old[i] != truth[i], new[i] != truth[i], i))
    flips = tuple(
        Flip(
            int(i),
            names[truth[i]],
            names[old[i]],
            names[new[i]],
            "" if len(texts) > i else _picture(examples.inputs[0][i]),
            texts[i][:_TEXT] if len(texts) > i else "",
        )
        for i in chosen
    )
    return Confusion(baseline, candidate, classes, len(broken), len(mended), len(moved), flips)


def _picture(example: NDArray[np.generic]) -> str:
    """An example as a small PNG, base64; empty where it is no picture."""
    from PIL import Image

    shape = example.shape
    if example.ndim != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 8 or max(shape[1:]) > 4096:
        return ""
    pixels = np.asarray(example, float)
    if not np.isfinite(pixels).all():
        return ""
    if example.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels - low) / (high - low) * 255 if high > low else np.zeros_like(pixels)
    grey = shape[0] == 1
    array = np.asarray(pixels.round(), np.uint8)
    picture = Image.fromarray(array[0] if grey else array.transpose(1, 2, 0), "L" if grey else "RGB")
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")
