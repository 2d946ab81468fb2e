"""Loading a Hugging Face folder into a torch module, and saving a changed one so that it loads again.

``transformers`` and ``optimum-onnx`` are the ``hf`` extra; both are imported here only when a folder is loaded, and
kept quiet: what can be wrong in what they load is looked at, not read off their warnings.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.errors import ModelError
from compressor.model import hf_folder
from compressor.model.base import TorchModel
from compressor.model.hf_folder import Folder
from compressor.model.hf_signature import (
    SIGNATURE,
    Signature,
    example_inputs,
    kept_signature,
    output_specs,
    signature_of,
)
from compressor.model.identify import FileKind
from compressor.model.packing import is_ours
from compressor.model.quiet import quiet_export
from compressor.model.signature import one_line
from compressor.results import ModelSummary, Step, TensorSpec

KIND = FileKind.HUGGING_FACE.value
_SHOWN = 3
_NUMBERS = re.compile(r"(?<=\.)\d+(?=\.)")
_UNUSED = re.compile(r"(^|\.)pooler\.|position_ids$|masked_bias$|attn\.bias$|inv_freq$")
"""Weights that a checkpoint may lack without a change of the outputs: an unused pooler, and old buffers."""


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Import ``transformers`` and keep it silent for a while.

    Yields:
        The package.

    Raises:
        ModelError: It is not installed.
    """
    with quiet_export():
        try:
            import transformers
        except ImportError as error:
            raise ModelError("needs the package transformers", where=KIND, mend=hf_folder.EXTRA) from error
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            yield transformers
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()


def load_folder(
    path: Path, *, task: str | None = None, allow_pickle: bool = False, trust_remote_code: bool = False
) -> TorchModel:
    """Load a folder that ``save_pretrained`` wrote; no code in it is run unless that was allowed.

    Args:
        path: The folder, with ``config.json`` and safetensors.
        task: One of :data:`~compressor.model.hf_folder.TASKS`; by the architecture if ``None``.
        allow_pickle: Whether pickled weights may be loaded.
        trust_remote_code: Whether Python code that the folder brings may be run.

    Returns:
        The model in float32 on the CPU, its module a :class:`~compressor.model.huggingface.HuggingFaceModule`.

    Raises:
        ModelError: The folder lacks something, is damaged, or holds an architecture or task that is not supported.
        UnsafeFileError: It holds pickles or code, and that was not allowed.
    """
    import torch

    from compressor.model.huggingface import HuggingFaceModule

    folder = hf_folder.screen(path, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    chosen = hf_folder.task_of(folder, task)
    hf, notes = _pretrained(folder, chosen, trust_remote_code)
    if (known := kept_signature(path)) is not None and known.task == chosen:
        inputs, outputs = known.inputs, tuple(spec.name for spec in known.outputs)
    else:
        inputs, outputs = signature_of(hf, chosen, path)
    module = HuggingFaceModule(hf, chosen, [spec.name for spec in inputs], outputs).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    example = example_inputs(inputs, folder.config)
    try:
        with torch.no_grad(), quiet_export():
            module(*example)
    except Exception as error:  # whatever the model raises is the message
        raise ModelError(f"does not run on an example: {one_line(error)}", where=path) from error
    packed = sum(getattr(layer, "packed_weights", 0) for layer in module.modules())
    summary = _summary(folder, inputs, packed + sum(p.numel() for p in module.parameters()))
    settings = {"format": KIND, "architecture": type(hf).__name__, "task": chosen}
    return TorchModel(summary.name, module, example, inputs, summary, (Step("load", settings, notes),))


def save_folder(model: TorchModel, target: Path) -> tuple[Path, tuple[TensorSpec, ...]]:
    """Save a model as a folder, weights in one safetensors file.

    Args:
        model: Its module is a :class:`~compressor.model.huggingface.HuggingFaceModule`.
        target: The folder; made if it is not there.

    Returns:
        The file of its weights, which :func:`compressor.runtimes.registry.open_session` opens, and what the model
        returns.
    """
    module: Any = model.module
    target.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        module.hf.save_pretrained(target, safe_serialization=True, max_shard_size="100000GB")
    outputs = output_specs(model)
    note = asdict(Signature(module.task, model.inputs, outputs))
    (target / SIGNATURE).write_text(json.dumps(note, indent=1), encoding="utf-8")
    return target / hf_folder.WEIGHTS, outputs


# --- weights -------------------------------------------------------------------------------------------------------


def _pretrained(folder: Folder, task: str, trust: bool) -> tuple[Any, tuple[str, ...]]:
    """Load the model of the architecture with all its weights, or say which ones do not fit."""
    import torch

    if is_ours(folder.config):
        from compressor.model.quantized import load_weights

        return load_weights(folder)
    with quiet_transformers() as transformers:
        config = _config(transformers, folder, trust)
        loader = getattr(transformers, hf_folder.TASKS[task])
        if not trust and type(config) not in loader._model_mapping:
            raise ModelError(
                f"transformers has no {folder.config.get('model_type')} model for the task {task}",
                where=folder.path,
                mend="name another with --hf-task",
            )
        try:
            hf, info = loader.from_pretrained(
                folder.path,
                config=config,
                local_files_only=True,
                use_safetensors=not folder.pickled,
                trust_remote_code=trust,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise ModelError(
                f"cannot be loaded: {one_line(error)}",
                where=folder.path,
                mend="check that the folder is complete, and its config.json that of its weights",
            ) from error
    _check_fit(folder, task, info, hf)
    left = [name for name in info["unexpected_keys"] if not _UNUSED.search(name)]
    require_no_more_layers(hf, left, folder.path)
    notes = (
        [f"{len(left)} weights in the file belong to another task and were left out: {_some(left)}."] if left else []
    )
    stored = str(folder.config.get("dtype") or folder.config.get("torch_dtype") or "float32")
    if stored != "float32":
        notes.append(f"Weights of {stored} in the file became float32.")
    return hf, tuple(notes)


def _config(transformers: Any, folder: Folder, trust: bool) -> Any:
    """The config as transformers' own class.

    Raises:
        ModelError: transformers does not know that type of model, or the config does not fit it.
    """
    kind = folder.config.get("model_type")
    known = list(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    if kind is None:
        raise ModelError("names no model_type", where=folder.path / hf_folder.CONFIG, mend="download the folder whole")
    if kind not in known and not trust:
        raise ModelError(
            f"is of an unknown architecture, model_type '{kind}'",
            where=folder.path,
            mend=f"{close_match(str(kind), known)}transformers {transformers.__version__} knows "
            f"{len(known)} types; a newer one may know it",
        )
    try:
        return transformers.AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=trust)
    except Exception as error:
        raise ModelError(
            f"does not fit its model_type: {one_line(error)}", where=folder.path / hf_folder.CONFIG
        ) from error


def close_match(given: str, known: list[str]) -> str:
    """The known name that was probably meant, where listing all of them would be too long."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.7)
    return f"did you mean '{close[0]}'? " if close else ""


def _check_fit(folder: Folder, task: str, info: Mapping[str, Any], hf: Any) -> None:
    if differing := sorted(info["mismatched_keys"]):
        name = differing[0]
        held = _shape_in_file(folder, name)
        raise ModelError(
            f"{len(differing)} of its weights have other shapes than config.json says, e.g. {name}, which should be "
            f"{tuple(hf.state_dict()[name].shape)}" + (f" and is {held}" if held else ""),
            where=folder.path,
            mend="take config and weights from the same model",
        )
    missing = sorted(name for name in info["missing_keys"] if not _UNUSED.search(name))
    if missing:
        raise ModelError(
            f"holds no weights for {len(missing)} layers' parameters that the task {task} needs: {_some(missing)}",
            where=folder.path,
            mend="train it for that task first, or name the task it was trained for with --hf-task",
        )


def require_no_more_layers(hf: Any, left: Iterable[str], where: Path) -> None:
    """Refuse weights of more layers than ``config.json`` says: what would run is not the model that was trained.

    Args:
        hf: The model.
        left: Weights that it has no place for.
        where: The folder, for the message.

    Raises:
        ModelError: One differs from a weight of the model by its numbers alone.
    """
    own = {_NUMBERS.sub("*", name) for name in hf.state_dict()}
    ignored = [re.compile(pattern) for pattern in getattr(hf, "_keys_to_ignore_on_load_unexpected", None) or ()]
    prefix = f"{hf.base_model_prefix}."
    for name in sorted(left):
        alike = {_NUMBERS.sub("*", one) for one in (name, prefix + name, name.removeprefix(prefix))}
        if own & alike and not any(pattern.search(name) for pattern in ignored):
            raise ModelError(
                f"its config.json describes fewer layers than it holds weights of, e.g. {name}",
                where=where,
                mend="take config and weights from the same model",
            )


def _shape_in_file(folder: Folder, name: str) -> tuple[int, ...] | None:
    """Shape of a weight in the safetensors; ``None`` where it has another name there, or the file is a pickle."""
    from safetensors import safe_open

    for file in folder.weights if not folder.pickled else ():
        with safe_open(file, "pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  it is no mapping
                return tuple(tensors.get_slice(name).get_shape())
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _summary(folder: Folder, inputs: tuple[TensorSpec, ...], parameters: int) -> ModelSummary:
    sha256, size = hf_folder.fingerprint(folder)
    name = hf_folder.folder_name(folder.path)
    return ModelSummary(name, str(folder.path), KIND, sha256, size, parameters, inputs, None)
