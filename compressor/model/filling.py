"""Building a module for weights that are held apart from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def fill_module(place: Path, module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put every weight in its place.

    Args:
        place: Where the weights come from, for messages.
        module: A traced program's module, or a :class:`~compressor.model.huggingface.HuggingFaceModule`; changed.
        weights: All its weights by name.

    Raises:
        ModelError: One is missing, or has no place.
    """
    import torch

    root: Any = getattr(module, "hf", module)
    own = root.state_dict(keep_vars=True)
    if missing := sorted(set(own) - set(weights)):
        raise ModelError(f"holds no '{missing[0]}', which its module needs", where=place)
    for name, value in weights.items():
        if name not in own:
            raise ModelError(f"holds '{name}', which its module has no place for", where=place)
        owner, _, leaf = name.rpartition(".")
        is_parameter = isinstance(own[name], torch.nn.Parameter)
        setattr(
            root.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
        )


def build_folder(
    folder: Path, weights: Mapping[str, Tensor], device: str = "cpu", *, bfloat16: bool = False
) -> torch.nn.Module:
    """Build a Hugging Face model of given weights.

    Args:
        folder: What :func:`compressor.model.hf_load.save_folder` wrote; its own weights are not read.
        weights: All weights by name, on the device.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        bfloat16: Whether it computes in bfloat16, but for layers whose weights are float32; it takes and gives float32
            all the same.

    Returns:
        A :class:`~compressor.model.huggingface.HuggingFaceModule` in eval mode.

    Raises:
        ModelError: The weights do not fit the model.
    """
    import torch

    from compressor.model import hf_folder, hf_load
    from compressor.model.hf_signature import kept_signature
    from compressor.model.huggingface import HuggingFaceModule

    known = kept_signature(folder)
    if known is None:
        raise ModelError("lacks its signature.json", where=folder)
    with hf_load.quiet_transformers() as transformers:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        hf = getattr(transformers, hf_folder.TASKS[known.task]).from_config(config)
    names = [[spec.name for spec in specs] for specs in (known.inputs, known.outputs)]
    module = HuggingFaceModule(hf, known.task, *names).eval().to(device)
    fill_module(folder, module, weights)
    if bfloat16:
        _border(module, torch.bfloat16, torch.float32)
        for layer in hf.modules():
            if any(parameter.dtype is torch.float32 for parameter in layer.parameters(recurse=False)):
                _border(layer, torch.float32, torch.bfloat16)
    return module


def _border(module: torch.nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
    """Have a module compute in one type and hand on another."""
    import torch
    from torch.utils._pytree import tree_map

    def cast(found: Any, to: torch.dtype) -> Any:
        return tree_map(lambda x: x.to(to) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, found)

    module.register_forward_pre_hook(lambda _, inputs: cast(inputs, inside))
    module.register_forward_hook(lambda _, inputs, found: cast(found, outside))
