"""Bringing inputs to the model's signature, and refusing those that do not fit it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.metrics import show_shape

Array = NDArray[np.generic]

_CHUNK_BYTES = 16 * 2**20


def check_input(name: str, x: Array, spec: TensorSpec | None, where: str) -> None:
    """Refuse an input array that the model cannot take.

    Args:
        name: What messages call it.
        x: ``(N, …)``.
        spec: The model's input, if known.
        where: The data, for messages.

    Raises:
        DataError: Wrong dtype or shape, or a value that is not finite.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name} is {_kind(x.dtype)}, not numbers", where=where)
    if x.ndim == 0:
        raise DataError(f"{name} is a single number, not one row per example", where=where)
    if spec is not None:
        _check_shape(name, x, spec, where)
    if (row := first_not_finite(x)) is not None:
        raise DataError(f"{name} holds NaN or infinity, first in row {row} (counted from 0)", where=where)
    if spec is not None:
        _check_cast(name, x, spec, where)


def fitted(name: str, x: Array, spec: TensorSpec | None) -> tuple[Array, str | None]:
    """Bring a checked input array to the model's element type.

    Bytes for a float input (or for one that is not known) are levels 0..255 and become floats in [0, 1]. An array that
    fits already is returned as it is, not copied.

    Args:
        name: What the note calls it.
        x: ``(N, …)``.
        spec: The model's input, if known.

    Returns:
        The array, and what was done, or ``None`` where nothing was.
    """
    target = spec.dtype if spec is not None else "float32" if x.dtype == np.uint8 else x.dtype.name
    dtype = np.dtype(target)
    if x.dtype == dtype:
        return x, None
    if x.dtype == np.uint8 and dtype.kind == "f":
        return np.divide(x, 255, dtype=dtype), f"{name}: uint8 scaled by 1/255 to {dtype}"
    return x.astype(dtype), f"{name}: {x.dtype} cast to {dtype}"


def first_not_finite(x: Array) -> int | None:
    """Find the first row with a NaN or an infinity, in pieces so that a mapped file is not copied whole."""
    if x.dtype.kind != "f" or not len(x):
        return None
    step = max(1, _CHUNK_BYTES // max(1, x.nbytes // len(x)))
    for start in range(0, len(x), step):
        finite = np.isfinite(x[start : start + step])
        if not finite.all():
            return start + int((~finite.reshape(len(finite), -1).all(axis=1)).argmax())
    return None


def _check_shape(name: str, x: Array, spec: TensorSpec, where: str) -> None:
    fits = x.ndim == len(spec.shape) and all(
        wanted is None or wanted == given for wanted, given in zip(spec.shape[1:], x.shape[1:], strict=True)
    )
    if fits:
        return
    wanted = spec.shape[1:]
    lacks_channel = len(wanted) > 1 and wanted[0] == 1 and x.shape[1:] == wanted[1:]
    raise DataError(
        f"{name} is {show_shape(x.shape)}, but the model's input '{spec.name}' is {show_shape(spec.shape)}",
        where=where,
        mend="add the channel axis: x[:, None]" if lacks_channel else None,
    )


def _check_cast(name: str, x: Array, spec: TensorSpec, where: str) -> None:
    try:
        target = np.dtype(spec.dtype)
    except TypeError:
        target = np.dtype(np.void)
    if target.kind not in "biuf":  # bfloat16 and the like are known to NumPy only as opaque bytes
        raise DataError(f"the model's input '{spec.name}' is {spec.dtype}, which NumPy lacks", where=where)
    if np.can_cast(x.dtype, target) or not x.size:
        return
    if not np.can_cast(x.dtype, target, "same_kind"):
        raise DataError(f"{name} is {x.dtype}, but the model's input '{spec.name}' is {spec.dtype}", where=where)
    bounds = np.finfo(target) if target.kind == "f" else np.iinfo(target)
    low, high = x.min(), x.max()
    if low < bounds.min or high > bounds.max:
        raise DataError(f"{name} holds {low:g}..{high:g}, too large for the model's {spec.dtype}", where=where)


def _kind(dtype: np.dtype[np.generic]) -> str:
    return {"U": "text", "S": "text", "O": "Python objects", "c": "complex", "M": "dates", "m": "time spans"}.get(
        dtype.kind, str(dtype)
    )
