"""Checkpoints that ``compress stream`` wrote: their layers as torch runs them, and loading them.

Only the quantized weights are ever in memory: the model is built without storage, its linear layers are replaced, and
the tensors are read from the shards one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import ModelError
from compressor.model.base import TorchModel
from compressor.model.checkpoint import StoredTensor, open_checkpoint, read_into
from compressor.model.hf_folder import CONFIG, Folder, read_config
from compressor.model.hf_load import close_match, load_folder, quiet_transformers
from compressor.model.packing import Format, parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is kept in 8 or 4 bits and made a float again in every call.

    At 8 bits the levels are multiplied as they are and the products scaled. At 4 bits the even and the odd inputs are
    multiplied apart, because the two halves of a byte are two matrices that need not be interleaved first. PyTorch's
    own kernels for such weights (``torch._weight_int4pack_mm_for_cpu``) are private, take bfloat16 in earnest and are
    slower than this in float32.

    Args:
        form: How the weight is stored.
        outputs: Rows of the weight.
        inputs: Columns of the weight.
        bias: Its bias, ``(outputs,)``, if it has one.
    """

    qweight: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, form: Format, outputs: int, inputs: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.form, self.in_features, self.out_features = form, inputs, outputs
        for part in parts(form, outputs, inputs):
            self.register_buffer(part.suffix, torch.empty(part.shape, dtype=_TYPES[part.dtype], device="meta"))
        self.bias = bias

    @property
    def packed_weights(self) -> int:
        """How many weights the levels stand for."""
        return self.out_features * self.in_features

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply.

        Args:
            inputs: ``(…, inputs)``.

        Returns:
            ``(…, outputs)``, of the inputs' type.
        """
        block = self.form.block_size
        if block is None:
            found = F.linear(inputs, self.qweight.to(inputs.dtype)) * self.scale.to(inputs.dtype)
            return found if self.bias is None else found + self.bias
        if missing := -self.in_features % block:
            inputs = F.pad(inputs, (0, missing))
        even, odd = (half.to(inputs.dtype) for half in self._halves())
        return F.linear(inputs[..., 0::2], even, self.bias) + F.linear(inputs[..., 1::2], odd)

    def weight_as_float(self) -> Tensor:
        """The weight that the levels stand for, float32, ``(outputs, inputs)``."""
        if self.form.block_size is None:
            return self.qweight.float() * self.scale[:, None]
        return torch.stack(self._halves(), dim=-1).reshape(self.out_features, -1)[:, : self.in_features]

    def _halves(self) -> tuple[Tensor, Tensor]:
        """The columns of even and of odd number, float32, ``(outputs, columns / 2)`` each."""
        packed = self.qweight.view(self.out_features, self.scale.shape[1], -1)
        scale = self.scale.float()[..., None]
        if self.form.symmetric:
            zero: Tensor | int = 8
        else:
            both = torch.stack([self.zero & 15, self.zero >> 4], dim=-1).view(self.out_features, -1)
            zero = both[:, : self.scale.shape[1], None].float()
        even, odd = ((levels.float() - zero) * scale for levels in (packed & 15, packed >> 4))
        return even.view(self.out_features, -1), odd.view(self.out_features, -1)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.in_features} → {self.out_features}, {self.form.bits} bits"


def empty_model(folder: Path) -> PreTrainedModel:
    """Build the model of a folder's ``config.json`` with parameters that have shapes and no storage.

    Args:
        folder: The checkpoint.

    Returns:
        The model in eval mode; tied parameters are one object, and buffers have their values.

    Raises:
        ModelError: There is no configuration, or transformers does not know its architecture.
    """
    from accelerate import init_empty_weights

    where = folder / CONFIG
    config = {key: value for key, value in read_config(folder).items() if key != "quantization_config"}
    names = config.get("architectures") or [None]
    with quiet_transformers() as transformers:
        kind: Any = getattr(transformers, str(names[0]), None)
        known_kind = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if not known_kind:
            known = [name for name in dir(transformers) if name.endswith("ForCausalLM")]
            what = f"transformers knows no architecture {names[0]!r}" if names[0] else "it names no architecture"
            raise ModelError(what, where=where, mend=close_match(str(names[0]), known).strip() or None)
        try:
            with init_empty_weights(include_buffers=False):
                model: PreTrainedModel = kind(kind.config_class.from_dict(config))
        except Exception as error:  # each architecture checks its configuration in its own way
            raise ModelError(f"{names[0]} cannot be built from it: {error}", where=where) from error
        model.tie_weights()
    return model.eval()


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that are a matrix product with a weight of their own: ``nn.Linear``, and GPT-2's ``Conv1D``."""
    kinds = ("Linear", "Conv1D")
    return {name: layer for name, layer in model.named_modules() if type(layer).__name__ in kinds}


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer's weight is ``(inputs, outputs)``, as that of GPT-2's ``Conv1D``."""
    return type(layer).__name__ == "Conv1D"


def canonical_names(model: nn.Module, given: Iterable[str]) -> dict[str, str]:
    """Match a checkpoint's names with the model's; a base model's checkpoint lacks the head model's prefix.

    Args:
        model: The model.
        given: Names in the checkpoint.

    Returns:
        The model's name to the checkpoint's; a name that the model has no place for is left out.
    """
    own = model.state_dict(keep_vars=True).keys()
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, str] = {}
    for name in given:
        fits = next((x for x in (name, prefix + name, name.removeprefix(prefix)) if x in own), None)
        if fits is not None:
            found[fits] = name
    return found


def require_all(model: nn.Module, present: Iterable[str], where: Path) -> None:
    """See to it that every tensor of the model is there, tied ones once.

    Raises:
        ModelError: Some are missing.
    """
    own = model.state_dict(keep_vars=True)
    there = set(present)
    shared = {id(own[name]) for name in there if name in own}
    missing = [name for name, tensor in own.items() if name not in there and id(tensor) not in shared]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"its weights lack '{missing[0]}'{more}, which {type(model).__name__} needs",
            where=where,
            mend="copy or download it again, or check 'architectures' in config.json",
        )


def load_quantized(folder: Path) -> TorchModel:
    """Load a checkpoint that ``compress stream`` wrote.

    Args:
        folder: The checkpoint.

    Returns:
        The model, computing in float32 on the CPU; its module is a
        :class:`~compressor.model.huggingface.HuggingFaceModule` with a :class:`QuantizedLinear` for every quantized
        layer.

    Raises:
        CompressorError: It is not such a checkpoint, or damaged.
    """
    Format.read(read_config(folder).get("quantization_config"), folder / CONFIG)
    return load_folder(folder)


def load_weights(folder: Folder) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Load the ``transformers`` model of such a checkpoint, and say what it is made of.

    Args:
        folder: The checkpoint, screened.

    Returns:
        The model in eval mode on the CPU, float32 where it is not quantized; and notes.

    Raises:
        ModelError: The checkpoint is damaged or does not fit its configuration.
    """
    path = folder.path
    form = Format.read(folder.config.get("quantization_config"), path / CONFIG)
    stored = open_checkpoint(path)
    model = empty_model(path)
    replaced = _replace(model, form, stored, path)
    own = model.state_dict(keep_vars=True)
    if unexpected := [name for name in stored if name not in own]:
        raise ModelError(
            f"tensor '{unexpected[0]}' has no place in {type(model).__name__}", where=path, mend="write it anew"
        )
    require_all(model, stored, path)
    for name, tensor in stored.items():
        if tuple(own[name].shape) != tensor.shape:
            raise ModelError(
                f"tensor '{name}' is {list(tensor.shape)} and should be {list(own[name].shape)}", where=tensor.file
            )
        layer, _, last = name.rpartition(".")
        _put(model, name, _read(tensor, widen=layer not in replaced or last == "bias"))
    with quiet_transformers():
        model.tie_weights()
    # Saved again, it is such a checkpoint again.
    model.config.quantization_config = form.config()
    model.requires_grad_(False)
    return model.eval(), (f"{len(replaced)} layers' weights are in {form.bits} bits, in our own format.",)


def _replace(model: nn.Module, form: Format, stored: Mapping[str, StoredTensor], folder: Path) -> frozenset[str]:
    """Put quantized layers in the place of those whose levels are stored; returns their names."""
    layers = linear_layers(model)
    names = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    if not names:
        raise ModelError("holds no quantized weight", where=folder, mend="write it anew")
    for name in names:
        if name not in layers:
            raise ModelError(f"'{name}' is quantized, and no linear layer of the model", where=folder)
        old: Any = layers[name]
        shape = tuple(reversed(old.weight.shape)) if is_transposed(old) else tuple(old.weight.shape)
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], QuantizedLinear(form, shape[0], shape[1], old.bias))
    return frozenset(names)


def _read(tensor: StoredTensor, *, widen: bool) -> Tensor:
    if tensor.dtype not in _TYPES:
        raise ModelError(f"tensor '{tensor.name}' is of type {tensor.dtype}, which torch lacks", where=tensor.file)
    raw = np.empty(tensor.size_bytes, np.uint8)
    read_into(tensor, 0, raw.data)
    found = torch.from_numpy(raw).view(_TYPES[tensor.dtype]).reshape(tensor.shape)
    return found.float() if widen and found.is_floating_point() else found


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    layer = model.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    if last in layer._parameters:
        layer._parameters[last] = nn.Parameter(value, requires_grad=False)
    else:
        layer._buffers[last] = value
