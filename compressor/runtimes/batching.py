"""What every runtime does alike: check inputs, call a model of a fixed batch in pieces of that size, name layers."""

from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.model.base import Arrays
from compressor.results import TensorSpec

Run = Callable[[Arrays], tuple[NDArray[np.generic], ...]]


def check_inputs(inputs: Arrays, specs: tuple[TensorSpec, ...]) -> None:
    """Compare a batch with what the model takes.

    Args:
        inputs: One array per model input, ``(batch, …)`` each.
        specs: The model's inputs.

    Raises:
        DataError: Their number, a type or a shape does not fit.
    """
    if len(inputs) != len(specs):
        raise DataError(f"the model takes {len(specs)} inputs and was given {len(inputs)}")
    for array, spec in zip(inputs, specs, strict=True):
        if array.dtype.name != spec.dtype:
            raise DataError(f"takes {spec.dtype} and was given {array.dtype.name}", where=f"input '{spec.name}'")
        fits = array.ndim == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            want = ", ".join("any" if size is None else str(size) for size in spec.shape)
            raise DataError(f"takes ({want}) and was given {array.shape}", where=f"input '{spec.name}'")


def predict(
    run: Run, specs: tuple[TensorSpec, ...], inputs: Arrays, outputs: tuple[TensorSpec, ...] = ()
) -> NDArray[np.generic]:
    """Compute the output of a batch of any size that is scored: the first, or both ends of an answer.

    Args:
        run: One call of the model.
        specs: The model's inputs; the first one's axis 0 says whether the batch is fixed.
        inputs: One array per model input, ``(batch, …)`` each.
        outputs: The model's outputs; one called ``start_logits`` with ``end_logits`` behind it is only half an answer.

    Returns:
        The first output, ``(batch, …)``; of a model that finds answers both ends, ``(batch, 2, …)``. With a fixed
        batch axis the inputs go through in pieces of that size, the last one padded with its last example and cut
        again.

    Raises:
        DataError: The inputs do not fit the model.
    """
    check_inputs(inputs, specs)
    size = specs[0].shape[0] if specs and specs[0].shape else None
    count = len(inputs[0]) if inputs and inputs[0].ndim else 0
    if size is None or count == size:
        return _scored(run(inputs), outputs)
    parts = []
    for start in range(0, count, size):
        piece = tuple(x[start : start + size] for x in inputs)
        kept = len(piece[0])
        padded = tuple(np.concatenate([x, np.repeat(x[-1:], size - kept, axis=0)]) for x in piece)
        parts.append(_scored(run(padded), outputs)[:kept])
    return np.concatenate(parts)


def _scored(found: tuple[NDArray[np.generic], ...], outputs: tuple[TensorSpec, ...]) -> NDArray[np.generic]:
    ends = [spec.name for spec in outputs[:2]] == ["start_logits", "end_logits"]
    return np.stack(found[:2], axis=1) if ends else found[0]


def unique(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where it is taken."""
    count, found = 2, name
    while found in taken:
        found, count = f"{name} ({count})", count + 1
    return found
