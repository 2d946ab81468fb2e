"""What moved between two classifiers on the same examples: per class, and which examples flipped. Pure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.results import ClassMoved, Confusion, Flip
from compressor.task.base import Examples
from compressor.task.metrics import decided

SHOWN = 24
"""Flipped examples that are kept; the broken ones come first."""
MOST_CLASSES = 1000
SIDE = 56
"""Largest side of a kept picture, in pixels."""
_TEXT = 200


def confusion(
    baseline: str,
    candidate: str,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    examples: Examples,
    *,
    class_names: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Confusion | None:
    """Compare two classifiers' outputs, example by example.

    Args:
        baseline: Name of the one arm.
        candidate: Name of the other.
        before: The baseline's first output on all examples, ``(N, C)`` or ``(N,)``.
        after: The candidate's.
        examples: The test examples; targets ``(N,)`` are class numbers.
        class_names: Names by class number; numbers stand for those that have none.
        columns: Names of the columns, where the examples are rows of a table.

    Returns:
        What moved; ``None`` for anything that is no classification, and above :data:`MOST_CLASSES` classes.
    """
    targets = examples.targets
    if targets is None or targets.ndim != 1 or not len(targets):
        return None
    if not np.issubdtype(targets.dtype, np.integer) and not np.issubdtype(targets.dtype, np.bool_):
        return None
    if any(len(outputs) != len(targets) or outputs.ndim > 2 for outputs in (before, after)):
        return None
    truth, old, new = np.asarray(targets, np.int64), decided(before), decided(after)
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
            _picture(examples.inputs[0][i]),
            _text(examples, i, columns),
        )
        for i in chosen
    )
    return Confusion(baseline, candidate, classes, len(broken), len(mended), len(moved), flips)


def _text(examples: Examples, row: int, columns: Sequence[str]) -> str:
    """An example as text, of a sane length; empty where it is none."""
    text = examples.texts[row] if examples.texts else ""
    if columns:
        # More of them than characters would be cut off anyway.
        values = zip(columns[:_TEXT], examples.inputs[0][row][:_TEXT], strict=True)
        text = ", ".join(f"{column}={value:.6g}" for column, value in values)
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


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
