"""What goes into a Hugging Face model and comes out of it, as its exported ONNX model will have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ModelError
from compressor.model import hf_folder
from compressor.model.base import PAST, TorchModel
from compressor.model.identify import FileKind
from compressor.model.quiet import quiet_export
from compressor.model.signature import one_line
from compressor.results import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

SIGNATURE = "signature.json"
"""What :func:`compressor.model.hf_load.save_folder` notes beside the weights, so that nobody asks ``optimum`` again."""

_KIND = FileKind.HUGGING_FACE.value
_EXAMPLE_LENGTH = 16


@dataclass(frozen=True)
class Signature:
    """What goes into a model and comes out of it.

    Attributes:
        task: ``optimum``'s name of the task.
        inputs: In the order of ``HuggingFaceModule.forward``; a causal model's cache comes last.
        outputs: In the order in which it returns them.
    """

    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def onnx_config(hf: Any, task: str, where: object) -> Any:
    """``optimum``'s description of how a model is exported.

    Args:
        hf: The ``PreTrainedModel``.
        task: A key of :data:`~compressor.model.hf_folder.TASKS`.
        where: The folder, for messages.

    Raises:
        ModelError: ``optimum-onnx`` is not installed, or cannot export such a model.
    """
    with quiet_export():
        try:
            import optimum.exporters.onnx.model_configs  # noqa: F401  registers the architectures
            from optimum.exporters.tasks import TasksManager
            from optimum.exporters.utils import get_decoder_models_for_export
        except ImportError as error:
            raise ModelError("needs the package optimum-onnx", where=_KIND, mend=hf_folder.EXTRA) from error
        try:
            make = TasksManager.get_exporter_config_constructor(
                exporter="onnx", model=hf, task=task, library_name="transformers"
            )
            config = make(hf.config, int_dtype="int64", float_dtype="fp32")
        except Exception as error:  # KeyError, ValueError and what the architecture's own class raises
            raise ModelError(
                f"optimum-onnx cannot export a {hf.config.model_type} model for the task {task}: {one_line(error)}",
                where=where,
                mend="name another task with --hf-task, or give the model as .pt2 or ONNX",
            ) from error
        if task.startswith("text-generation"):
            config = get_decoder_models_for_export(hf, config)["model"][1]
        return config


def signature_of(hf: Any, task: str, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """Work out what goes in and what the outputs are called, as the exported ONNX model will have it.

    Pictures keep the size that the processor makes, for the other axes ``optimum`` says which are free.

    Args:
        hf: The ``PreTrainedModel``.
        task: A key of :data:`~compressor.model.hf_folder.TASKS`.
        path: The folder, where a processor's size is looked up.

    Raises:
        ModelError: ``optimum-onnx`` is not installed, or cannot export such a model.
    """
    config = onnx_config(hf, task, path)
    about = hf.config.to_dict()
    picture = picture_shape(path, about)
    sizes = {"num_channels": picture[0], "height": picture[1], "width": picture[2]}
    if about.get("max_source_positions") and hf.main_input_name == "input_features":
        sizes["nb_max_frames"] = 2 * about["max_source_positions"]  # Whisper's convolutions halve the frames
    with quiet_export():
        dummies = config.generate_dummy_inputs(framework="pt", **sizes)
        axes = config.ordered_inputs(hf)
    past = dummies.pop("past_key_values", None)
    for layer, pair in enumerate(past or ()):
        for name, tensor in zip(("key", "value"), pair, strict=True):
            dummies[f"{PAST}{layer}.{name}"] = tensor
    names = sorted(axes, key=lambda name: name.startswith(PAST))
    specs = []
    for name in names:
        value, labels = dummies[name], axes[name]
        # Some of optimum's own examples have the config's size, where the processor makes another.
        shape = tuple(sizes.get(labels[axis]) if axis in labels else size for axis, size in enumerate(value.shape))
        specs.append(TensorSpec(name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(specs), tuple(config.outputs)


def picture_shape(path: Path, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Channels, height and width of a picture as the folder's processor makes it; else ``(3, 224, 224)``."""
    file = path / "preprocessor_config.json"
    processor: dict[str, Any] = {}
    if file.is_file():
        try:
            processor = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"is not JSON ({error})", where=file, mend="copy or download it again") from error
    channels = config.get("num_channels") or 3
    for size in (
        processor.get("crop_size") if processor.get("do_center_crop") else None,
        processor.get("size"),
        config.get("image_size"),
    ):
        if isinstance(size, int):
            return channels, size, size
        if isinstance(size, list | tuple) and len(size) == 2:
            return channels, int(size[0]), int(size[1])
        if isinstance(size, dict) and "height" in size:
            return channels, size["height"], size["width"]
        if isinstance(size, dict) and "shortest_edge" in size:
            return channels, size["shortest_edge"], size["shortest_edge"]
    return channels, 224, 224


def example_inputs(inputs: tuple[TensorSpec, ...], config: Mapping[str, Any], longer: int = 0) -> tuple[Tensor, ...]:
    """A batch of 2 that the model runs on: valid token ids, masks of ones, an empty cache; the same every time.

    Args:
        inputs: The model's inputs.
        config: What ``config.json`` holds.
        longer: So much is added to axes that are free.
    """
    import torch

    draws = torch.Generator().manual_seed(0)
    made = []
    for spec in inputs:
        free = 0 if spec.name.startswith(PAST) else _free_length(spec.name) + longer
        shape = (2, *(free if size is None else size for size in spec.shape[1:]))
        dtype = getattr(torch, spec.dtype)
        if "mask" in spec.name:
            made.append(torch.ones(shape, dtype=dtype))
        elif "position" in spec.name:
            made.append(torch.arange(shape[-1], dtype=dtype).expand(shape).contiguous())
        elif spec.name.endswith("input_ids"):
            made.append(torch.randint(0, hf_folder.vocabulary(config), shape, generator=draws).to(dtype))
        elif dtype.is_floating_point:
            made.append(torch.randn(shape, generator=draws).to(dtype))
        else:
            made.append(torch.zeros(shape, dtype=dtype))
    return tuple(made)


def _free_length(name: str) -> int:
    return hf_folder.SOUND_SAMPLES if name == "input_values" else _EXAMPLE_LENGTH


def output_specs(model: TorchModel) -> tuple[TensorSpec, ...]:
    """What the model returns; axes whose sizes change with the inputs' are free, as is the batch."""
    import torch

    module: Any = model.module
    about = module.hf.config.to_dict()
    with torch.no_grad(), quiet_export():
        short, long = (
            found if isinstance(found := module(*example_inputs(model.inputs, about, more)), tuple) else (found,)
            # Enough for the frames of a sound to become one more.
            for more in (0, hf_folder.SOUND_SAMPLES if model.inputs[0].name == "input_values" else 1)
        )
    return tuple(
        TensorSpec(
            name,
            str(a.dtype).removeprefix("torch."),
            (None, *(x if x == y else None for x, y in zip(a.shape[1:], b.shape[1:], strict=True))),
        )
        for name, a, b in zip(module.output_names, short, long, strict=True)
    )


def kept_signature(path: Path) -> Signature | None:
    """What :func:`compressor.model.hf_load.save_folder` noted in a folder, if it wrote it."""
    file = path / SIGNATURE
    if not file.is_file():
        return None
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Signature).validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ModelError("is damaged", where=file, mend="remove it: it is worked out again") from error
