"""Models that only PyTorch runs, as files: safetensors, with what is needed to load them again and without pickle.

``model.safetensors`` holds every weight, in bfloat16 or as torchao quantized it; its header says of what type each is
and what was done (:class:`About`).
Beside it lies how to build the module: ``model.graph.pt2``, the traced program without its weights, or for a Hugging
Face model its ``config.json`` and ``signature.json``. The header holds the hash of those files, so that the hash of
``model.safetensors`` stands for all of them.

``torch.export`` programs hold ATen operators instead of ``nn.Linear``, which ``torchao.quantization.quantize_`` looks
for. Its tensors act wherever ``torch.nn.functional.linear`` is called on them, so that is what their nodes call here. A
program in bfloat16 has its casts in its own graph; a Hugging Face model gets them where it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import types
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError
from compressor.model.filling import build_folder, fill_module
from compressor.model.quiet import quiet_export
from compressor.model.signature import one_line
from compressor.onnx_file import staged
from compressor.results import Artifact, Step, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.export import ExportedProgram

HEADER = "compressor.torchao"
"""Key of :class:`About` in the header of the safetensors file."""
GRAPH = "model.graph.pt2"
SPARSE = "sparse-2:4"
BF16 = "bf16"
_PLAIN = (BF16, SPARSE)
"""Precisions whose weights are plain tensors, of which torchao's format knows nothing."""
_PREFIX = "quantized."


@dataclass(frozen=True)
class About:
    """What the header says of a file.

    Attributes:
        method: The method's name.
        precision: Of the weights that it changed, e.g. ``int8``.
        config: torchao's own description of its settings; empty where the weights are plain tensors.
        layers: Names of the weights that were changed; in bfloat16, of the operators that compute in it.
        left: Name of each other operator or layer that does arithmetic, and why it was left.
        by_op: The operators of the model and how often each occurs.
        bfloat16: Whether the changed layers compute in bfloat16, which their kernels want.
        inputs: The model's inputs.
        outputs: Its outputs.
        files: Name of each file beside it that building the module needs, and its SHA-256.
        versions: Of torch and torchao when it was written.
        shared: Name of each weight that is another one, too, and the name under which the file holds both.
    """

    method: str
    precision: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    left: dict[str, str]
    by_op: dict[str, int]
    bfloat16: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: dict[str, str]
    versions: dict[str, str]
    shared: dict[str, str] = field(default_factory=dict)


def torchao() -> types.ModuleType:
    """Import torchao's quantization quietly: it logs every optional library that it finds no GPU for."""
    with quiet_export():
        import torchao.quantization
    found: types.ModuleType = torchao.quantization
    return found


def read_about(path: Path) -> About | None:
    """What a safetensors file says of itself; ``None`` if no method for PyTorch wrote it.

    Raises:
        ModelError: It is damaged.
    """
    from pydantic import TypeAdapter, ValidationError
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            held = (file.metadata() or {}).get(HEADER)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"is a damaged safetensors file: {one_line(error)}", where=path) from error
    if held is None:
        return None
    try:
        return TypeAdapter(About).validate_json(held)
    except ValidationError as error:
        raise ModelError("has a damaged header", where=path, mend="copy it again, or make it anew") from error


def companions(path: Path) -> list[Path]:
    """The files beside it that a file of ours needs; none for any other safetensors file.

    Raises:
        ModelError: It is damaged, or names a file outside its folder.
    """
    about = read_about(path)
    names = sorted(about.files) if about else []
    if wrong := [name for name in names if Path(name).name != name]:
        raise ModelError(f"names '{wrong[0]}', which is not a file beside it", where=path)
    return [path.parent / name for name in names]


def save_program(weights: Mapping[str, Tensor], program: ExportedProgram, about: About, target: Path) -> None:
    """Write a quantized model whose module is a traced program.

    Args:
        weights: All of the program's parameters and buffers by name, the quantized ones in torchao's types.
        program: The program before quantization; its weights are not written, and it is left without them.
        about: The header, ``files`` empty.
        target: ``model.safetensors``; the program goes beside it.
    """
    import torch

    for name, tensor in list(program.state_dict.items()):
        # One number, seen as if it were all: the shape stays in the file and the weights do not.
        empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        program.state_dict[name] = torch.nn.Parameter(empty, requires_grad=False) if is_parameter else empty
    # Sample inputs are the one thing in such an archive that torch pickles.
    program._example_inputs = None
    place = target.parent / GRAPH
    with staged(place) as path, quiet_export():
        torch.export.save(program, path)
    _save_weights(weights, about, [place], target)


def save_huggingface(weights: Mapping[str, Tensor], folder: Path, about: About) -> Path:
    """Put the quantized weights into a folder that :func:`compressor.model.hf_load.save_folder` wrote.

    Args:
        weights: All weights of the ``transformers`` model by name, the quantized ones in torchao's types.
        folder: The folder; its ``model.safetensors`` is replaced.
        about: The header, ``files`` empty.

    Returns:
        The weights' file.
    """
    target = folder / "model.safetensors"
    _save_weights(weights, about, [folder / "config.json", folder / "signature.json"], target)
    return target


def _save_weights(weights: Mapping[str, Tensor], about: About, beside: list[Path], target: Path) -> None:
    from safetensors.torch import save_file

    quantized = {} if about.precision in _PLAIN else {name: weights[name].detach() for name in about.layers}
    tensors: dict[str, Tensor] = {}
    header = {"format": "pt"}  # what transformers asks of a file
    if quantized:
        with quiet_export():
            from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
        # torchao takes a name apart at its last dot, and fails on one without.
        tensors, header = flatten_tensor_state_dict({f"{_PREFIX}{name}": t for name, t in quantized.items()})
    held: dict[tuple[Any, ...], str] = {}
    shared: dict[str, str] = {}
    for name, tensor in weights.items():
        if name in quantized:
            continue
        first = held.setdefault(_identity(tensor), name) if tensor.numel() else name
        if first == name:
            tensors[name] = tensor.detach().clone()  # what shares memory in part, safetensors refuses
        else:
            shared[name] = first
    files = {file.name: _sha256(file) for file in beside}
    text = json.dumps({**asdict(about), "files": files, "shared": shared})
    with staged(target) as path:
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={**header, HEADER: text})


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common if they are one: tied weights."""
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return *place, tensor.dtype, tuple(tensor.shape), tensor.stride()


def describe_torchao(path: Path, parameters: int | None, steps: tuple[Step, ...], root: Path | None = None) -> Artifact:
    """Say what a file holds.

    Args:
        path: The safetensors file, what it needs beside it.
        parameters: Number of the model's weights, if known.
        steps: How it came about; by the header alone if empty.
        root: Folder that the record's path is relative to; the path as given if ``None``.

    Returns:
        The record; its hash covers the files beside it by the header, its size all of them.

    Raises:
        ModelError: It is damaged, or no method for PyTorch wrote it.
    """
    about = _about(path)
    files = [path, *companions(path)]
    return Artifact(
        path=str(path.relative_to(root) if root else path),
        format="safetensors" if about.precision == BF16 else "torchao",
        sha256=_sha256(path),
        size_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        inputs=about.inputs,
        outputs=about.outputs,
        opset=None,
        parameters=parameters,
        steps=steps or (Step(about.method, {}),),
    )


def _about(path: Path) -> About:
    about = read_about(path)
    if about is None:
        raise ModelError("is not what bf16 or a torchao method writes", where=path)
    return about


def load(path: Path, device: str = "cpu") -> tuple[torch.nn.Module, About]:
    """Build the module and put the weights in.

    Args:
        path: The safetensors file.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The module in eval mode, and what the header says.

    Raises:
        ModelError: The file or one beside it is damaged, missing or not the one it was written with.
    """
    from safetensors.torch import load_file

    about = _about(path)
    for file in companions(path):
        if not file.is_file():
            raise ModelError("is missing: the module is built from it", where=file, mend=f"keep it beside {path.name}")
        if _sha256(file) != about.files[file.name]:
            raise ModelError(f"is not the one that {path.name} was written with", where=file)
    with warnings.catch_warnings(), quiet_export():
        weights = load_file(path, device=device)
    weights |= {name: weights[held] for name, held in about.shared.items() if held in weights}
    if about.precision not in _PLAIN:
        weights = _unflattened(path, weights)
    elif about.precision == SPARSE:
        from torch.sparse import to_sparse_semi_structured

        weights.update({name: to_sparse_semi_structured(weights[name]) for name in about.layers})
    if GRAPH not in about.files:
        module = build_folder(path.parent, weights, device, bfloat16=about.precision == BF16)
    else:
        module = _program(path, device)
        fill_module(path, module, weights)
    if about.precision != BF16:
        call_linear(module, about.layers, bfloat16=about.bfloat16)
    return module, about


def _unflattened(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights, those that torchao took apart in its types again."""
    torchao()
    with warnings.catch_warnings(), quiet_export():
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

        apart = {name: tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
        try:
            whole, _ = unflatten_tensor_state_dict(apart, _header(path))
        except Exception as error:  # KeyError, ValueError, TypeError: whatever a header that does not fit leads to
            raise ModelError(f"its weights do not fit its header: {one_line(error)}", where=path) from error
    plain = {name: tensor for name, tensor in tensors.items() if name not in apart}
    return {**plain, **{name.removeprefix(_PREFIX): tensor for name, tensor in whole.items()}}


def _header(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: text for name, text in file.metadata().items() if name != HEADER}


def _program(path: Path, device: str) -> torch.nn.Module:
    from compressor.model.program import program_module, read_program

    place = path.parent / GRAPH
    program = read_program(place)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program_module(place, program)


def call_linear(module: torch.nn.Module, layers: tuple[str, ...], *, bfloat16: bool) -> None:
    """Have layers call ``torch.nn.functional.linear``, in bfloat16 if their kernels want that.

    Args:
        module: A traced program's module, or a :class:`~compressor.model.huggingface.HuggingFaceModule`; changed.
        layers: Names of the weights whose layers are meant.
        bfloat16: Whether to compute there in bfloat16; what comes out has the type of what goes in.
    """
    import torch

    function = _linear_in_bfloat16 if bfloat16 else torch.nn.functional.linear
    if isinstance(module, torch.fx.GraphModule):
        chosen = set(layers)
        for node in linear_nodes(module.graph):
            if node.args[1].target in chosen:
                node.target = function
        module.recompile()
    elif bfloat16:
        root: Any = getattr(module, "hf", module)
        for name in layers:
            layer = root.get_submodule(name.rpartition(".")[0])
            layer.forward = types.MethodType(_forward_in_bfloat16, layer)


def linear_nodes(graph: torch.fx.Graph) -> list[Any]:
    """The nodes of a traced graph that multiply by a weight, as ``nn.Linear`` does."""
    import torch

    return [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and node.target is torch.ops.aten.linear.default
        and isinstance(node.args[1], torch.fx.Node)
        and node.args[1].op == "get_attr"
    ]


def _linear_in_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    import torch

    half = None if bias is None else bias.to(torch.bfloat16)
    return torch.nn.functional.linear(x.to(torch.bfloat16), weight, half).to(x.dtype)


def _forward_in_bfloat16(self: torch.nn.Linear, x: Tensor) -> Tensor:
    return _linear_in_bfloat16(x, self.weight, self.bias)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
