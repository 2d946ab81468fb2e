"""Hugging Face models to ONNX, through ``optimum-onnx``, whose classes load the result again.

Inputs and outputs keep the names that ``ORTModelFor….from_pretrained`` looks for. Two things are changed behind the
exporter: a causal model's cache moves behind the other inputs, so that all models of one kind take the same first
inputs; and pictures keep the size that the processor makes, which a graph traced at that size depends on anyway.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.model.hf_load import quiet_transformers
from compressor.model.hf_signature import onnx_config
from compressor.model.packing import is_ours
from compressor.model.signature import one_line
from compressor.onnx_file import load_outline, save_onnx

if TYPE_CHECKING:
    import onnx

    from compressor.model.base import TorchModel


def write_onnx(model: TorchModel, target: Path, opset: int) -> None:
    """Export the module that is in memory, so a changed one exports too.

    Args:
        model: Its module is a :class:`~compressor.model.huggingface.HuggingFaceModule`.
        target: The ``.onnx`` file to write; large weights go to ``NAME.onnx.data`` beside it. ``config.json`` and
            ``generation_config.json`` are written beside it too: the model does not load without.
        opset: ONNX operator set.

    Raises:
        ExportError: ``optimum-onnx`` or torch cannot export it, or its weights are in our own 4 or 8 bits.
        ModelError: ``optimum-onnx`` is not installed or does not know the architecture.
    """
    module: Any = model.module
    if is_ours(module.hf.config.to_dict()):
        raise ExportError(
            "its weights are quantized already, by 'compress stream', for PyTorch alone",
            where=model.name,
            mend="give the model that it was made from, or measure it by 'compress bench' on torch",
        )
    config = onnx_config(module.hf, module.task, model.name)
    # The exporter switches the cache on or off in the model's own config and leaves it so.
    before = {name: getattr(module.hf.config, name, None) for name in ("return_dict", "use_cache")}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder, quiet_transformers():
        from optimum.exporters.onnx.convert import export

        file = Path(folder) / "model.onnx"
        try:
            export(module.hf, config, file, opset=opset, input_shapes=_sizes(model), device="cpu")
            config.fix_dynamic_axes(file, device="cpu", dtype="fp32")
            # Its weights stay in the exporter's file until they are written: the model itself is in memory already.
            proto = load_outline(file)
        except Exception as error:  # torch's tracer, optimum and the model itself raise what they like
            raise ExportError(
                f"optimum-onnx cannot export it: {one_line(error)}", where=model.name, mend="report it with the model"
            ) from error
        finally:
            for name, value in before.items():
                setattr(module.hf.config, name, value)
        _settle(proto, model)
        save_onnx(proto, target)
        module.hf.config.save_pretrained(target.parent)
        if module.hf.can_generate() and getattr(module.hf, "generation_config", None) is not None:
            module.hf.generation_config.save_pretrained(target.parent)


def _sizes(model: TorchModel) -> dict[str, int]:
    """The size of a picture or a spectrogram, where the model takes one of a fixed size."""
    axes = {"pixel_values": ("num_channels", "height", "width"), "input_features": ("feature_size", "nb_max_frames")}
    return {
        axis: size
        for spec in model.inputs
        for axis, size in zip(axes.get(spec.name, ()), spec.shape[1:], strict=False)
        if size is not None
    }


def _settle(proto: onnx.ModelProto, model: TorchModel) -> None:
    """Order the inputs as the module takes them, fix the axes that are fixed, drop notes on this machine."""
    graph = proto.graph
    of = {value.name: value for value in graph.input}
    missing = [spec.name for spec in model.inputs if spec.name not in of]
    if missing or len(of) != len(model.inputs):
        raise ExportError(
            f"the exported model takes {', '.join(of)} instead of {', '.join(spec.name for spec in model.inputs)}",
            where=model.name,
            mend="report it with the model",
        )
    ordered = []
    for spec in model.inputs:
        value = of[spec.name]
        for dim, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if size is not None:
                dim.dim_value = size
        ordered.append(value)
    del graph.input[:]
    graph.input.extend(ordered)
    proto.ClearField("metadata_props")
    graph.name = "model"
    for part in (proto, graph, *graph.node):
        part.ClearField("doc_string")
