"""Loading a trained model, whatever the file is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import ModelError, UnsafeFileError
from compressor.model import signature
from compressor.model.base import Arrays, OnnxModel, TorchModel, safe_name
from compressor.model.identify import FileKind, identify, pickle_root
from compressor.model.signature import one_line
from compressor.results import ModelSummary, Step, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NEEDS_ARCH = frozenset({FileKind.STATE_DICT, FileKind.SAFETENSORS})
"""Kinds that hold weights but not the model they belong to."""

_CHUNK_BYTES = 1 << 20


def load_model(
    path: Path,
    *,
    arch: str | None = None,
    example: Arrays | None = None,
    input_shapes: tuple[tuple[int, ...], ...] | None = None,
    allow_pickle: bool = False,
    hf_task: str | None = None,
    trust_remote_code: bool = False,
) -> TorchModel | OnnxModel:
    """Load a trained model; no code in it is run unless ``allow_pickle`` or ``trust_remote_code`` is set.

    Args:
        path: The file, of any kind in :class:`~compressor.model.identify.FileKind`; its name does not matter. Or the
            folder of a Hugging Face model.
        arch: ``package.module:callable`` or ``file.py:callable`` that builds the module which a state dict or
            safetensors file belongs to. That code is run.
        example: Rows of the user's data, one array per input; gives shapes and types where the file does not.
        input_shapes: The alternative: shapes without the batch axis, all float32.
        allow_pickle: Whether a pickled module may be loaded, which runs whatever code is in it.
        hf_task: Task of a Hugging Face folder; by its architecture if ``None``.
        trust_remote_code: Whether Python code that a Hugging Face folder brings may be run.

    Returns:
        An :class:`OnnxModel` for ONNX, else a :class:`TorchModel` on the CPU in eval mode.

    Raises:
        ModelError: The file or the architecture cannot serve; :class:`UnsafeFileError` if loading it could do harm.
        DataError: The example does not fit the inputs that the file says it has.
    """
    kind = identify(path)
    if kind is not FileKind.HUGGING_FACE and (hf_task is not None or trust_remote_code):
        raise ModelError(
            f"is no Hugging Face folder ({kind.value})",
            where=path,
            mend=f"leave out {'--hf-task' if hf_task is not None else '--trust-remote-code'}",
        )
    if arch is not None and kind not in NEEDS_ARCH and not (kind is FileKind.PICKLED_MODULE and allow_pickle):
        raise ModelError(f"holds its own architecture ({kind.value})", where=path, mend="leave out --arch")
    if kind is FileKind.HUGGING_FACE:
        from compressor.model.hf_load import load_folder

        return load_folder(path, task=hf_task, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if kind is FileKind.ONNX:
        return _load_onnx(path, example, input_shapes)
    if kind is FileKind.EXPORTED_PROGRAM:
        return _load_program(path, example, input_shapes)
    if kind is FileKind.TORCHSCRIPT:
        return _load_torchscript(path, example, input_shapes)
    module, kind, notes = load_eager(path, kind, arch, allow_pickle)
    inputs = signature.example_inputs(path, kind.value, example, input_shapes)
    names = signature.forward_names(path, module, len(inputs))
    inputs, free = signature.probe(path, module, signature.like_weights(module, inputs))
    specs = signature.specs_of(names, inputs, free=free)
    return _torch_model(path, kind, module, inputs, specs, arch=arch, notes=notes)


def load_eager(
    path: Path, kind: FileKind, arch: str | None, allow_pickle: bool
) -> tuple[torch.nn.Module, FileKind, tuple[str, ...]]:
    """Load a state dict, a safetensors file or a pickled module into a module of the user's own class.

    Returns:
        The module in eval mode, the kind, and notes on what was done.

    Raises:
        ModelError: As :func:`load_model`.
    """
    from compressor.model import weights

    if kind is FileKind.SAFETENSORS:
        tensors, notes = weights.read_safetensors(path)
    elif kind is FileKind.STATE_DICT and not allow_pickle:
        tensors, notes = weights.read_state_dict(path)
    else:
        loaded = read_pickled(path, allow_pickle=allow_pickle)
        if not isinstance(loaded, Mapping):
            return loaded, FileKind.PICKLED_MODULE, ()
        kind = FileKind.STATE_DICT
        tensors, notes = weights.find_tensors(path, loaded)
    arch = weights.require_arch(path, kind.value, tensors, arch)
    module, more = weights.into_module(path, arch, tensors)
    return module, kind, (*notes, *more)


def read_pickled(path: Path, *, allow_pickle: bool) -> torch.nn.Module | Mapping[object, object]:
    """Load a pickled module, or a dict of weights, running whatever code is in the pickle.

    Args:
        path: The file.
        allow_pickle: The user's word that it may.

    Raises:
        UnsafeFileError: ``allow_pickle`` is not set.
        ModelError: It cannot be loaded, or is no module and no dict.
    """
    import pickle

    import torch

    from compressor.model.arch import importable

    root = pickle_root(path)
    if not allow_pickle:
        what = f"'{root.name}'" if root.name else f"a {root.kind}"
        raise UnsafeFileError(
            f"is a pickled Python object ({what}); loading it runs whatever code is in it",
            where=path,
            mend="add --allow-pickle only if you trust where it comes from; better save it with torch.export.save "
            "(.pt2), or model.state_dict() for --arch",
        )
    try:
        with importable(Path.cwd()):
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=False)
            except (RuntimeError, pickle.UnpicklingError):
                with path.open("rb") as file:
                    loaded = pickle.load(file)
    except Exception as error:
        home = "the script that wrote it" if root.name.startswith("__main__.") else "Python code that is not here"
        raise ModelError(
            f"cannot be unpickled: {one_line(error)}",
            where=path,
            mend=f"its class is in {home}: save model.state_dict() there and name it with --arch file.py:callable",
        ) from error
    return _find_module(path, loaded)


def _find_module(path: Path, loaded: object) -> torch.nn.Module | Mapping[object, object]:
    import torch

    found = loaded
    if isinstance(loaded, Mapping):
        inside = [value for value in loaded.values() if isinstance(value, torch.nn.Module)]
        if not inside:
            return loaded
        found = inside[0]
    if isinstance(found, torch.nn.DataParallel):
        found = found.module
    if not isinstance(found, torch.nn.Module):
        name = f"{type(found).__module__}.{type(found).__qualname__}"
        raise ModelError(f"is a pickled '{name}', not a torch.nn.Module", where=path)
    return found.eval()


def _load_program(path: Path, example: Arrays | None, input_shapes: tuple[tuple[int, ...], ...] | None) -> TorchModel:
    import torch

    from compressor.model import program as exported

    program = exported.read_program(path)
    specs = exported.program_inputs(path, program)
    signature.fit_example(path, specs, example, input_shapes)
    inputs = exported.program_example(program, specs)
    if example is not None:
        rows = signature.example_inputs(path, "", example, None)
        inputs = tuple(
            row[: len(old)].to(old.dtype) if len(old) <= len(row) else old
            for row, old in zip(rows, inputs, strict=True)
        )
    module = exported.program_module(path, program)
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:  # whatever its graph raises is the message
        raise ModelError(f"does not run on its own example: {one_line(error)}", where=path) from error
    return _torch_model(path, FileKind.EXPORTED_PROGRAM, module, inputs, specs)


def _load_torchscript(
    path: Path, example: Arrays | None, input_shapes: tuple[tuple[int, ...], ...] | None
) -> TorchModel:
    from compressor.model import torchscript

    inputs = signature.example_inputs(path, FileKind.TORCHSCRIPT.value, example, input_shapes)
    script = torchscript.read_torchscript(path)
    torchscript.check_inputs(path, script, len(inputs))
    parameters = sum(p.numel() for p in script.parameters())
    inputs, free = signature.probe(path, script, signature.like_weights(script, inputs))
    module, free = torchscript.convert(path, script, inputs, free=free)
    specs = signature.specs_of(signature.forward_names(path, module, len(inputs)), inputs, free=free)
    note = "Converted from TorchScript to a torch.export graph; the outputs on an example were compared."
    return _torch_model(path, FileKind.TORCHSCRIPT, module, inputs, specs, notes=(note,), parameters=parameters)


def _load_onnx(path: Path, example: Arrays | None, input_shapes: tuple[tuple[int, ...], ...] | None) -> OnnxModel:
    from compressor.model.onnx_file import read_onnx

    file = read_onnx(path)
    signature.fit_example(path, file.inputs, example, input_shapes)
    parameters = sum(_elements(tensor.dims) for tensor in file.proto.graph.initializer)
    summary = summarize(path, FileKind.ONNX, file.inputs, parameters, external=file.external)
    return OnnxModel(summary.name, path, file.inputs, file.outputs, summary)


def _elements(dims: list[int]) -> int:
    count = 1
    for size in dims:
        count *= size
    return count


def _torch_model(
    path: Path,
    kind: FileKind,
    module: torch.nn.Module,
    inputs: tuple[Tensor, ...],
    specs: tuple[TensorSpec, ...],
    *,
    arch: str | None = None,
    notes: tuple[str, ...] = (),
    parameters: int | None = None,
) -> TorchModel:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    if parameters is None:
        parameters = sum(p.numel() for p in module.parameters())
    summary = summarize(path, kind, specs, parameters, arch=arch)
    steps = (Step("load", {"format": kind.value, "arch": arch}, notes),) if notes else ()
    return TorchModel(summary.name, module, inputs, specs, summary, steps)


def summarize(
    path: Path,
    kind: FileKind,
    inputs: tuple[TensorSpec, ...],
    parameters: int | None,
    *,
    arch: str | None = None,
    external: tuple[Path, ...] = (),
) -> ModelSummary:
    """Say what a model file is.

    Args:
        path: The file.
        kind: Its kind.
        inputs: The model's inputs, if known.
        parameters: Number of weights.
        arch: The ``--arch`` used.
        external: Files beside it that hold weights: counted and hashed with it, in name order.

    Returns:
        Its summary; size and hash cover the file and ``external``.
    """
    digest = hashlib.sha256()
    for part in (path, *external):
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    size = sum(part.stat().st_size for part in (path, *external))
    return ModelSummary(safe_name(path), str(path), kind.value, digest.hexdigest(), size, parameters, inputs, arch)
