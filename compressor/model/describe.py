"""What ``compress inspect`` shows of a model file: its kind, size, inputs and layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.model import hf_folder, load
from compressor.model.base import Arrays
from compressor.model.identify import FileKind, identify
from compressor.results import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Layer:
    """A part of a model that holds weights.

    Attributes:
        name: Its path in the model.
        type: Its class or operator; ``tensor`` where the file only holds weights.
        shape: Of its largest weight.
        parameters: Number of weights in it; running statistics and other buffers are not counted where the file tells
            them apart.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Description:
    """A model file as it is.

    Attributes:
        kind: What it is.
        name: Short name.
        path: The file as given.
        size_bytes: Of the file, with its external data.
        sha256: Of the file, with its external data.
        parameters: Number of weights; for a state dict or safetensors without ``arch``, of all its numbers.
        inputs: The model's inputs; empty where the file does not say and neither data nor shapes were given.
        layers: Everything that holds weights, in the file's order.
        notes: What a reader should know, one sentence each.
    """

    kind: str
    name: str
    path: str
    size_bytes: int
    sha256: str
    parameters: int
    inputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()


def describe(
    path: Path,
    *,
    arch: str | None = None,
    example: Arrays | None = None,
    input_shapes: tuple[tuple[int, ...], ...] | None = None,
    allow_pickle: bool = False,
    hf_task: str | None = None,
    trust_remote_code: bool = False,
) -> Description:
    """Describe a model file; screened as :func:`~compressor.model.load.load_model` does, and nothing in it is run.

    Args:
        path: The file.
        arch: As for ``load_model``; optional here, and with it layers have their classes.
        example: As for ``load_model``; optional here, and with it the inputs are checked and shown.
        input_shapes: The alternative to ``example``.
        allow_pickle: As for ``load_model``.
        hf_task: As for ``load_model``.
        trust_remote_code: As for ``load_model``.

    Returns:
        What it is.

    Raises:
        ModelError: As ``load_model``.
        DataError: As ``load_model``.
    """
    path = hf_folder.resolve(path, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    kind = identify(path)
    external: tuple[Path, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    notes: tuple[str, ...] = ()
    if kind is FileKind.HUGGING_FACE:
        return _describe_folder(path, hf_task, allow_pickle, trust_remote_code)
    if kind is FileKind.ONNX:
        from compressor.model.onnx_file import read_onnx

        file = read_onnx(path)
        external, inputs, layers = file.external, file.inputs, _onnx_layers(file.proto)
    elif kind is FileKind.EXPORTED_PROGRAM:
        from compressor.model.program import program_inputs, read_program

        program = read_program(path)
        inputs, layers = program_inputs(path, program), _program_layers(program)
    elif kind is FileKind.TORCHSCRIPT:
        from compressor.model.torchscript import read_torchscript

        layers = _module_layers(read_torchscript(path))
    elif arch is None and kind in {FileKind.STATE_DICT, FileKind.SAFETENSORS} and not allow_pickle:
        from compressor.model import weights

        read = weights.read_safetensors if kind is FileKind.SAFETENSORS else weights.read_state_dict
        tensors, notes = read(path)
        layers = [Layer(name, "tensor", tuple(t.shape), t.numel()) for name, t in tensors.items()]
        notes = (*notes, "Weights only: the architecture is in code, named with --arch.")
    else:
        module, kind, notes = load.load_eager(path, kind, arch, allow_pickle)
        layers = _module_layers(module)
    if not inputs and (example is not None or input_shapes) and (arch is not None or kind not in load.NEEDS_ARCH):
        loaded = load.load_model(path, arch=arch, example=example, input_shapes=input_shapes, allow_pickle=allow_pickle)
        inputs = loaded.inputs
    parameters = sum(layer.parameters for layer in layers)
    summary = load.summarize(path, kind, inputs, parameters, arch=arch, external=external)
    return Description(
        kind.value,
        summary.name,
        summary.path,
        summary.size_bytes,
        summary.sha256,
        parameters,
        inputs,
        tuple(layers),
        notes,
    )


def _describe_folder(path: Path, task: str | None, allow_pickle: bool, trust: bool) -> Description:
    from compressor.model.hf_load import load_folder

    model = load_folder(path, task=task, allow_pickle=allow_pickle, trust_remote_code=trust)
    layers = [replace(layer, name=layer.name.removeprefix("hf.")) for layer in _module_layers(model.module)]
    about, summary = model.steps[0], model.summary
    said = f"{about.settings['architecture']} for the task {about.settings['task']}."
    return Description(
        summary.format,
        summary.name,
        summary.path,
        summary.size_bytes,
        summary.sha256,
        summary.parameters or 0,
        model.inputs,
        tuple(layers),
        (said, *about.notes),
    )


def _layer(name: str, kind: str, weights: Sequence[Tensor]) -> Layer | None:
    shapes = [tuple(w.shape) for w in weights]
    counts = [w.numel() for w in weights]
    if not shapes:
        return None
    return Layer(name, kind, shapes[counts.index(max(counts))], sum(counts))


def _module_layers(module: torch.nn.Module) -> list[Layer]:
    made: list[Layer | None] = []
    for name, part in module.named_modules():
        kind = getattr(part, "original_name", type(part).__name__)
        made.append(_layer(name or "(top)", kind, list(part.parameters(recurse=False))))
    return [layer for layer in made if layer is not None]


def _program_layers(program: ExportedProgram) -> list[Layer]:
    kinds: dict[str, str] = {}
    for node in program.graph.nodes:
        stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
        for where, kind in stack.values():
            kinds[where] = str(kind).rpartition(".")[2].rstrip("'>")
    owners: dict[str, list[Tensor]] = {}
    for name, weight in program.named_parameters():
        owners.setdefault(name.rpartition(".")[0], []).append(weight)
    made = [_layer(name or "(top)", kinds.get(name, "module"), weights) for name, weights in owners.items()]
    return [layer for layer in made if layer is not None]


def _onnx_layers(proto: Any) -> list[Layer]:
    weights = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    layers: list[Layer] = []
    for node in proto.graph.node:
        shapes = [weights.pop(name) for name in node.input if name in weights]
        if shapes:
            largest = max(shapes, key=math.prod)
            layers.append(Layer(node.name or node.output[0], node.op_type, largest, sum(map(math.prod, shapes))))
    layers += [Layer(name, "initializer", shape, math.prod(shape)) for name, shape in weights.items()]
    return layers
