"""The files that ``compress bench`` measures: screened, copied to a folder of our own, and named apart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compressor.errors import ModelError, RuntimeUnavailableError
from compressor.model.hf_folder import folder_name
from compressor.results import Artifact
from compressor.runtimes.batching import unique


def copy_model(
    file: Path, runtime: str | None, place: Path, *, hf_task: str | None, trust_remote_code: bool
) -> tuple[Artifact, Path]:
    """Screen a file and write the copy that will run; the artifact bears the file's own path.

    Args:
        file: An ONNX file, an exported program, a Hugging Face folder, or what a method for PyTorch wrote.
        runtime: What will run it; by its format if ``None``.
        place: An empty folder for the copy.
        hf_task: Task of a Hugging Face folder; by its architecture if ``None``.
        trust_remote_code: Whether Python code that a Hugging Face folder brings may be run.

    Returns:
        What was copied, and where to.

    Raises:
        ModelError: It is another kind of file, or cannot be loaded.
        RuntimeUnavailableError: The runtime does not run it.
    """
    from compressor.export import describe_onnx, export_onnx, export_torch
    from compressor.model.base import OnnxModel
    from compressor.model.identify import FileKind, identify
    from compressor.model.load import load_model
    from compressor.onnx_file import copy_onnx
    from compressor.runtimes.registry import ONNX, RUNTIMES
    from compressor.torchao_file import describe_torchao, read_about

    kind = identify(file)
    takes_onnx = runtime is not None and ONNX in RUNTIMES[runtime].opens
    if kind is FileKind.SAFETENSORS and read_about(file) is not None:
        if takes_onnx:
            raise RuntimeUnavailableError("runs on torch and torch-compile only", where=file)
        return describe_torchao(file, None, ()), _copy_torchao(file, place)
    if kind not in (FileKind.ONNX, FileKind.EXPORTED_PROGRAM, FileKind.HUGGING_FACE):
        raise ModelError(
            f"is a {kind.value}; bench takes ONNX files, exported programs, Hugging Face folders and what bf16 and the "
            "torchao methods write",
            where=file,
            mend="'compress MODEL' writes the first two from it, to baseline/ of its folder",
        )
    if kind is FileKind.HUGGING_FACE:
        model = load_model(file, hf_task=hf_task, trust_remote_code=trust_remote_code)
    else:
        model = load_model(file)
    # What runs is the same model in a new file: what identifies it is the user's own.
    about = model.summary
    if isinstance(model, OnnxModel):
        if runtime is not None and not takes_onnx:
            raise RuntimeUnavailableError(
                f"{runtime} does not run ONNX files", where=file, mend="use onnxruntime for it"
            )
        path = place / "model.onnx"
        copy_onnx(model.path, path)
        own = replace(describe_onnx(path, ()), path=str(file), sha256=about.sha256, size_bytes=about.size_bytes)
        return own, path
    if takes_onnx:
        path = place / "model.onnx"
        return replace(export_onnx(model, path), path=str(file)), path
    written = export_torch(model, place)
    own = replace(written, path=str(file), sha256=about.sha256, size_bytes=about.size_bytes)
    return own, place / written.path


def _copy_torchao(file: Path, place: Path) -> Path:
    """Copy what a method for PyTorch wrote, with the files beside it that it needs."""
    from compressor.torchao_file import companions

    for one in [file, *companions(file)]:
        if not one.is_file():
            raise ModelError("is missing", where=one, mend=f"keep it beside {file.name}")
        shutil.copyfile(one, place / one.name)
    return place / file.name


def unique_name(file: Path, runtime: str | None, files: Sequence[Path], taken: Sequence[str]) -> str:
    """The file's name; with its folder where another is called alike, with its runtime where that is not the usual.

    Args:
        file: The file.
        runtime: What will run it; ``None`` for the usual one.
        files: All files that are measured.
        taken: Names that others have got.
    """
    from compressor.runtimes.registry import FORMATS, TORCHAO

    alike = {other.resolve() for other in files if other.name == file.name}
    own = folder_name(file) if file.is_dir() else file.name
    name = f"{file.resolve().parent.name}/{own}" if len(alike) > 1 else own
    if runtime is not None and runtime != FORMATS[TORCHAO if file.is_dir() else file.suffix.lower()]:
        name = f"{name} on {runtime}"
    return unique(name, taken)
