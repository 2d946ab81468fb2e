"""Weights without a model: state dicts and safetensors, put into the module that ``--arch`` builds."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError, UnsafeFileError
from compressor.model import arch as architecture
from compressor.model.identify import pickle_root
from compressor.model.signature import one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = {"module.": "torch.nn.DataParallel", "_orig_mod.": "torch.compile"}
_SHOWN = 3


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a file that ``torch.save`` wrote, with torch's restricted unpickler only.

    Args:
        path: The file; :func:`~compressor.model.identify.identify` called it a state dict.

    Returns:
        The tensors by name, mapped from the file where its format allows, and notes on what was peeled off.

    Raises:
        UnsafeFileError: It holds more than tensors and plain containers.
        ModelError: It is truncated, or no state dict is in it.
    """
    import torch

    pickle_root(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            # Old files name the storage classes that torch now warns of; nothing the user could do about it.
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise _not_only_tensors(path, error) from error
    except Exception as error:
        raise ModelError(
            f"cannot be read: {one_line(error)}", where=path, mend="copy or download it again, or save it anew"
        ) from error
    return find_tensors(path, loaded)


def find_tensors(path: Path, loaded: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the state dict in what a checkpoint holds.

    Args:
        path: The file, for the messages.
        loaded: What was loaded from it.

    Returns:
        The tensors by name, and notes on what was peeled off.

    Raises:
        ModelError: No state dict is in it.
    """
    import torch

    if not isinstance(loaded, Mapping):
        raise ModelError(f"holds a {type(loaded).__name__}, not a state dict", where=path)
    notes: list[str] = []
    found: Mapping[Any, Any] = loaded
    for key in _NESTED:
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            others = [str(other) for other in loaded if other != key]
            left = f"; left aside: {', '.join(others[:5])}" if others else ""
            notes.append(f"The state dict was found under '{key}'{left}.")
            found = inner
            break
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        keys = ", ".join(repr(str(key)) for key in list(loaded)[:5])
        raise ModelError(
            f"holds a dict without tensors (its keys: {keys or 'none'})",
            where=path,
            mend=f"a state dict must be at the top or under one of {', '.join(_NESTED)}",
        )
    if other := [str(k) for k, v in found.items() if not isinstance(v, torch.Tensor)]:
        notes.append(f"Left aside {len(other)} entries that are not tensors: {', '.join(other[:5])}.")
    tensors, stripped = strip_prefixes(tensors)
    return tensors, (*notes, *stripped)


def strip_prefixes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take off the prefixes that wrappers put in front of every name."""
    notes: list[str] = []
    names = dict(tensors)
    while prefix := next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names)), None):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
        notes.append(f"The prefix '{prefix}' of {_PREFIXES[prefix]} was taken off {len(names)} names.")
    return names, tuple(notes)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read the tensors of a safetensors file, mapped from it.

    Raises:
        ModelError: It is damaged or holds none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"is a damaged safetensors file: {one_line(error)}", where=path, mend="copy or download it again"
        ) from error
    if not tensors:
        raise ModelError("is a safetensors file without tensors", where=path)
    return strip_prefixes(tensors)


def require_arch(path: Path, kind: str, names: Iterable[str], arch: str | None) -> str:
    """Say what is missing when weights come without an architecture.

    Returns:
        The architecture.

    Raises:
        ModelError: None is given.
    """
    if arch is not None:
        return arch
    listed = list(names)
    raise ModelError(
        f"holds weights without their model ({kind}, {len(listed)} tensors, e.g. '{listed[0]}')",
        where=path,
        mend="name the architecture with --arch package.module:callable or --arch file.py:callable",
    )


def into_module(path: Path, arch: str, tensors: dict[str, Tensor]) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Build the architecture and put the weights in.

    Args:
        path: The file, for the messages.
        arch: The ``--arch``.
        tensors: The weights by name; emptied as they are copied.

    Returns:
        The module in eval mode, and notes.

    Raises:
        ModelError: The names or shapes do not fit.
    """
    import torch

    module = architecture.build(arch)
    own = module.state_dict(keep_vars=True)
    absent = [name for name in own if name not in tensors]
    shared = {own[name].data_ptr() for name in own if name in tensors and isinstance(own[name], torch.Tensor)}
    # Tied weights are saved once; and BatchNorm before torch 0.4.1 did not count its batches.
    missing = [
        name
        for name in absent
        if not name.endswith("num_batches_tracked")
        and not (isinstance(own[name], torch.Tensor) and own[name].numel() and own[name].data_ptr() in shared)
    ]
    unexpected = [name for name in tensors if name not in own]
    differing = [
        f"{name} is {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the architecture"
        for name, value in tensors.items()
        if name in own and isinstance(own[name], torch.Tensor) and value.shape != own[name].shape
    ]
    if missing or unexpected or differing:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
            for names, what in ((missing, "missing"), (unexpected, "unexpected"), (differing, "of another shape"))
            if names
        ]
        raise ModelError(
            f"its weights do not fit {arch} ({'; '.join(parts)})",
            where=path,
            mend="name the architecture that they were trained in",
        )
    notes = [f"{name} was not in the file and stays as it was built." for name in absent if name not in missing][:1]
    cast = {(v.dtype, own[n].dtype) for n, v in tensors.items() if isinstance(own[n], torch.Tensor)}
    notes += [f"Weights of {a} in the file became {b}." for a, b in sorted(cast, key=str) if a != b]
    try:
        module.load_state_dict(tensors, strict=False)
    except Exception as error:  # modules may bring load hooks of their own
        raise ModelError(f"its weights do not fit {arch}: {one_line(error)}", where=path) from error
    tensors.clear()
    return module.eval(), tuple(notes)


def _not_only_tensors(path: Path, error: Exception) -> ModelError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"'{found[1].rstrip('.')}'" if found else "an object"
    return UnsafeFileError(
        f"holds {what}, which is no tensor and could run code when it is loaded",
        where=path,
        mend="where it was made, save model.state_dict() alone; or add --allow-pickle if you trust where it comes from",
    )
