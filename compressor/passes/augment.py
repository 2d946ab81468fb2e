"""Changing pictures at random while a model is trained on them: a small set of examples then teaches more.

Source: the shifts and mirror images of He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2:
pictures of 32 pixels padded by 4 and cut out again, here an eighth of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from compressor.errors import MethodError, nearest
from compressor.task.user_code import is_reference, load_callable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Inputs = tuple["Tensor", ...]

Augment = Callable[[Inputs, "torch.Generator"], Inputs]
"""From a batch of inputs and random numbers to the changed batch."""

KINDS = ("mirror", "shift")

SHIFT = 1 / 8
"""Largest shift, as a share of the height and of the width."""


def augmentations(given: str | Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Read the setting ``augment``.

    Args:
        given: Kinds, a list of them or one text with commas, or references to callables of the user's.
        where: The method, for messages.

    Raises:
        MethodError: There is no such kind, and it is no reference.
    """
    names = given.split(",") if isinstance(given, str) else given or ()
    found = tuple(name.strip() for name in names)
    for name in found:
        if name not in KINDS and not is_reference(name):
            raise MethodError(
                f"has no augment '{name}'",
                where=where,
                mend=f"{nearest(name, KINDS)}, or package.module:callable or file.py:callable",
            )
    return found


def augmenter(names: Sequence[str], shapes: Sequence[tuple[int, ...]], where: str) -> Augment | None:
    """The changes that are made to every batch, one after the other.

    Args:
        names: From :func:`augmentations`.
        shapes: Shapes of the model's inputs, ``(N, …)``.
        where: The method, for messages.

    Returns:
        What makes them; ``None`` if there are none.

    Raises:
        MethodError: Pictures are to be changed and no input is one.
        DataError: A callable of the user's cannot be loaded.
    """
    if not names:
        return None
    if any(name in KINDS for name in names) and not any(len(shape) == 4 for shape in shapes):
        raise MethodError(
            "no input is a picture (N, C, H, W) that could be shifted or mirrored",
            where=where,
            mend="leave out augment, or name a callable of your own",
        )
    changes = [{"shift": _shifted, "mirror": _mirrored}.get(name) or load_callable(name) for name in names]

    def change(inputs: Inputs, generator: torch.Generator) -> Inputs:
        for each in changes:
            inputs = tuple(each(inputs, generator))
        return inputs

    return change


def _mirrored(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Half of the pictures, left to right."""
    import torch

    count, device = len(inputs[0]), inputs[0].device
    chosen = torch.rand(count, generator=generator, device=device) < 0.5
    return tuple(torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x) if x.ndim == 4 else x for x in inputs)


def _shifted(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Every picture by an amount of its own; what comes in at the edge is 0."""
    import torch

    count, device = len(inputs[0]), inputs[0].device
    amounts = 2 * torch.rand(2, count, generator=generator, device=device) - 1

    def along(x: Tensor, axis: int, share: Tensor) -> Tensor:
        size = x.shape[axis]
        by = (share * (round(SHIFT * size) + 0.5)).round().long().clamp(-round(SHIFT * size), round(SHIFT * size))
        source = torch.arange(size, device=device) - by[:, None]  # (N, size)
        outside = (source < 0) | (source >= size)
        view = [count, 1, 1, 1]
        view[axis] = size
        index = source.clamp(0, size - 1).view(view).expand_as(x)
        return x.gather(axis, index).masked_fill(outside.view(view), 0)

    return tuple(along(along(x, 2, amounts[0]), 3, amounts[1]) if x.ndim == 4 else x for x in inputs)
