"""torchao's quantization of linear layers, for PyTorch to run: such a model does not become ONNX.

Its home is a GPU. On a CPU the int8 methods run too; int4, fp8 and 2:4 sparsity have no kernel there and say so. What
is written is described in :mod:`compressor.torchao_file`.

torchao passes over layers without a word: convolutions, linear layers whose sizes do not fit a kernel, ``Conv1D`` of
``transformers``. Here each layer that does arithmetic is counted and named, and a model in which nothing was changed is
an error.

Source: torchao 0.18, ``torchao.quantization.quantize_``; 2:4 sparsity: Mishra et al. 2021, "Accelerating sparse deep
neural networks".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor import torchao_file
from compressor.errors import MethodError
from compressor.model.quiet import quiet_export
from compressor.model.signature import one_line
from compressor.passes.propagation import operator_name
from compressor.passes.torch_files import BY_RULE, COMPUTE, COMPUTE_LAYERS, TorchFile
from compressor.rules import touched
from compressor.torchao_file import About, linear_nodes
from compressor.tracing import outputs_of, trace

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.model.base import TorchModel

GROUP_SIZES = (32, 64, 128, 256)
_NOT_LINEAR = "torchao quantizes linear layers only"


@dataclass(frozen=True)
class _Torchao(TorchFile):
    """What the methods share."""

    counted: ClassVar[str] = "layers that do arithmetic, by torchao"
    bfloat16: ClassVar[bool] = False
    capability: ClassVar[tuple[int, int] | None] = None
    """Least compute capability of the GPU that its kernels need; ``None`` if they run on a CPU too."""

    def require(self, device: str) -> None:
        """See that a device has the kernels.

        Raises:
            MethodError: It has not.
        """
        if self.capability is None:
            return
        least = ".".join(map(str, self.capability))
        if device == "cpu":
            raise MethodError(
                f"has no kernel on a CPU: it needs an NVIDIA GPU of compute capability {least} or newer",
                where=self.name,
                mend="add --device cuda on such a machine; torchao-int8-dynamic and torchao-int8-weight-only run here",
            )
        import torch

        found = torch.cuda.get_device_capability(device)
        if found < self.capability:
            raise MethodError(
                f"needs compute capability {least} or newer, and {torch.cuda.get_device_name(device)} has "
                f"{found[0]}.{found[1]}",
                where=self.name,
                mend="use torchao-int8-weight-only",
            )

    def _program(self, model: TorchModel, target: Path, device: str) -> About:
        program = trace(model)
        module: Any = program.module(check_guards=False)
        used = Counter(
            user for node in module.graph.nodes if node.op == "get_attr" for user in [node.target] * len(node.users)
        )
        linear = linear_nodes(module.graph)
        multiplied = Counter(node.args[1].target for node in linear)
        weights = {name: module.get_parameter(name) for name in multiplied if used[name] == multiplied[name]}
        left = {
            name.removesuffix(".weight"): "also used elsewhere" for name in multiplied if used[name] != multiplied[name]
        }
        left |= {
            node.name: _NOT_LINEAR
            for node in module.graph.nodes
            if node.op == "call_function" and operator_name(node) in COMPUTE and node not in linear
        }
        changed, more = self._quantize(weights, device)
        self._require_some(changed, left | more)
        by_op = Counter(operator_name(node) for node in module.graph.nodes if node.op == "call_function")
        state = dict(module.state_dict())
        about = self._about(
            model, changed, left | more, by_op, outputs_of(program), config=self._description(), bfloat16=self.bfloat16
        )
        torchao_file.save_program({**state, **changed}, program, about, target)
        return about

    def _huggingface(self, model: TorchModel, module: Any, target: Path, device: str) -> About:
        import torch
        from torch import nn

        from compressor.model.hf_load import save_folder

        layers = {name: layer for name, layer in module.hf.named_modules() if type(layer).__name__ in COMPUTE_LAYERS}
        uses = Counter(id(p) for layer in module.hf.modules() for p in layer.parameters(recurse=False))
        weights: dict[str, Tensor] = {}
        left: dict[str, str] = {}
        for name, layer in layers.items():
            if type(layer) is not nn.Linear:
                left[name] = _NOT_LINEAR
            elif uses[id(layer.weight)] > 1:
                left[name] = "also used elsewhere"
            else:
                weights[f"{name}.weight"] = layer.weight
        changed, more = self._quantize(weights, device)
        self._require_some(changed, left | more)
        by_op = Counter(type(layer).__name__ for layer in module.hf.modules() if not list(layer.children()))
        _, outputs = save_folder(model, target.parent)
        about = self._about(
            model, changed, left | more, by_op, outputs, config=self._description(), bfloat16=self.bfloat16
        )
        state = {name: tensor for name, tensor in module.hf.state_dict().items() if isinstance(tensor, torch.Tensor)}
        torchao_file.save_huggingface({**state, **changed}, target.parent, about)
        return about

    def _quantize(self, weights: Mapping[str, Tensor], device: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Quantize each weight; gives the changed ones, and why others were left, both by the layers' names."""
        chosen = touched({name.removesuffix(".weight"): "linear" for name in weights}, self.parsed)
        changed: dict[str, Tensor] = {}
        left: dict[str, str] = {}
        for name, weight in weights.items():
            layer = name.removesuffix(".weight")
            if layer not in chosen:
                left[layer] = BY_RULE
            elif why := self._unfit(weight):
                left[layer] = why
            else:
                changed[name] = self._changed(weight, device, layer)
        return changed, left

    def _changed(self, weight: Tensor, device: str, layer: str) -> Tensor:
        import torch

        quantization = torchao_file.torchao()
        box = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"))
        dtype = torch.bfloat16 if self.bfloat16 else weight.dtype
        # A copy: where type and device stay, torchao would work on the user's own weight.
        box[0].weight = torch.nn.Parameter(weight.detach().to(device, dtype, copy=True), requires_grad=False)
        try:
            with quiet_export():
                quantization.quantize_(box, self._config())
        except Exception as error:  # ImportError, AssertionError, NotImplementedError: by the kernel that is missing
            raise MethodError(f"torchao cannot quantize {layer}: {one_line(error)}", where=self.name) from error
        found: Tensor = box[0].weight
        if type(found.data) is torch.Tensor:
            raise MethodError(f"torchao left {layer} as it was", where=self.name, mend="exclude it with a rule")
        return found

    def _config(self) -> Any:
        raise NotImplementedError

    def _unfit(self, weight: Tensor) -> str:
        """Why a weight's shape does not fit the kernel; empty if it does."""
        return ""

    def _description(self) -> dict[str, Any]:
        from torchao.core.config import config_to_dict

        found: dict[str, Any] = config_to_dict(self._config())
        return found


@dataclass(frozen=True)
class TorchaoInt8Dynamic(_Torchao):
    """Weights and activations in int8; activations by the range of each row as it comes."""

    name: ClassVar[str] = "torchao-int8-dynamic"
    precision: ClassVar[str] = "int8"

    def _config(self) -> Any:
        return torchao_file.torchao().Int8DynamicActivationInt8WeightConfig()


@dataclass(frozen=True)
class TorchaoInt8WeightOnly(_Torchao):
    """Weights in int8, one scale per output; activations stay in floating point."""

    name: ClassVar[str] = "torchao-int8-weight-only"
    precision: ClassVar[str] = "int8"

    def _config(self) -> Any:
        return torchao_file.torchao().Int8WeightOnlyConfig()


@dataclass(frozen=True)
class TorchaoInt4WeightOnly(_Torchao):
    """Weights in 4 bits, in groups with a scale and a zero point each; activations in bfloat16. GPU only.

    Attributes:
        group_size: Weights per scale: 32, 64, 128 or 256.
    """

    name: ClassVar[str] = "torchao-int4-weight-only"
    precision: ClassVar[str] = "int4"
    bfloat16: ClassVar[bool] = True
    capability: ClassVar[tuple[int, int] | None] = (8, 0)
    group_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size not in GROUP_SIZES:
            known = ", ".join(map(str, GROUP_SIZES))
            raise MethodError(f"group_size {self.group_size} does not exist; known: {known}", where=self.name)

    def _config(self) -> Any:
        # The form whose kernel comes with torch itself; the plain one needs a library that is not on the registry.
        return torchao_file.torchao().Int4WeightOnlyConfig(
            group_size=self.group_size, int4_packing_format="tile_packed_to_4d"
        )

    def _unfit(self, weight: Tensor) -> str:
        return "" if weight.shape[1] % self.group_size == 0 else f"inputs are no multiple of {self.group_size}"


@dataclass(frozen=True)
class TorchaoFp8(_Torchao):
    """Weights and activations in 8-bit floats (e4m3). GPUs from Ada and Hopper on."""

    name: ClassVar[str] = "torchao-fp8"
    precision: ClassVar[str] = "fp8"
    bfloat16: ClassVar[bool] = True
    capability: ClassVar[tuple[int, int] | None] = (8, 9)

    def _config(self) -> Any:
        return torchao_file.torchao().Float8DynamicActivationFloat8WeightConfig()

    def _unfit(self, weight: Tensor) -> str:
        return "" if all(size % 16 == 0 for size in weight.shape) else "sizes are no multiples of 16"


@dataclass(frozen=True)
class TorchaoSparse24(_Torchao):
    """Weights of which two in every four are 0, as ``prune-2:4`` leaves them, in the form that a GPU skips them in."""

    name: ClassVar[str] = "torchao-2:4"
    precision: ClassVar[str] = torchao_file.SPARSE
    bfloat16: ClassVar[bool] = True
    capability: ClassVar[tuple[int, int] | None] = (8, 0)

    def _changed(self, weight: Tensor, device: str, layer: str) -> Tensor:
        """The weight as it is: the GPU's form is made when it is loaded, since no file format holds it."""
        import torch

        return torch.nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)

    def _unfit(self, weight: Tensor) -> str:
        rows, columns = weight.shape
        if rows % 32 or columns % 64:
            return "sizes are no multiples of 32 and 64"
        pattern = (weight.detach().reshape(-1, 4) != 0).sum(1)
        return "" if int(pattern.max()) <= 2 else "not two of four weights are 0 (put prune-2:4 before it)"

    def _description(self) -> dict[str, Any]:
        return {}
