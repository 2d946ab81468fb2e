"""What a model holds, what its layers cost, and what each method would do to it: ``compress inspect``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError
from compressor.model import hf_folder
from compressor.model.base import PAST

if TYPE_CHECKING:
    import onnx

    from compressor.flops import LayerCost
    from compressor.macs import Sizes
    from compressor.model.describe import Description
    from compressor.model.hf_folder import Limits
    from compressor.passes.preview import Preview


@dataclass(frozen=True)
class Inspection:
    """A model file, looked into.

    Attributes:
        description: The file as it is.
        layers: The layers of the ONNX graph as the methods see it, by whose names rules go; empty if there is no graph.
        flops: Floating-point operations of one example, in convolutions, products and recurrences; ``None`` where they
            are not known.
        previews: What each method would do.
        notes: What a reader should know, one sentence each.
    """

    description: Description
    layers: tuple[LayerCost, ...]
    flops: int | None
    previews: tuple[Preview, ...]
    notes: tuple[str, ...]


def inspect_model(path: Path, **options: Any) -> Inspection:
    """Look into a model file. It is exported to ONNX in a folder that is deleted again; no data are needed.

    Args:
        path: The file.
        options: As for :func:`~compressor.model.describe.describe`.

    Returns:
        What was found. What needs the model's graph is left out, with a note, where the file does not hold it.

    Raises:
        ModelError: As ``describe``.
        DataError: As ``describe``.
    """
    from compressor.model.describe import describe

    description = describe(path, **options)
    try:
        with tempfile.TemporaryDirectory(prefix="compressor.") as folder:
            layers, previews, sizes = _graph(path, Path(folder), options)
    except CompressorError as error:
        note = f"FLOPs, and what the methods would do, are not known: {error}"
        return Inspection(description, (), None, (), (*description.notes, note))
    known = [layer.flops for layer in layers if layer.flops is not None]
    flops = sum(known) if len(known) == len(layers) else None
    if flops is None:
        sizes = "FLOPs depend on sizes that the file leaves free, or on control flow."
    return Inspection(description, layers, flops, previews, (*description.notes, *([sizes] if sizes else [])))


def _graph(path: Path, folder: Path, options: dict[str, Any]) -> tuple[tuple[LayerCost, ...], tuple[Preview, ...], str]:
    """The layers, what each method would do to them, and for which sizes the FLOPs are, where the file has none."""
    from compressor.export import export_onnx
    from compressor.flops import layer_costs
    from compressor.model.base import OnnxModel
    from compressor.model.load import load_model
    from compressor.onnx_file import load_outline
    from compressor.passes.preview import preview_graph, preview_torch

    model = load_model(path, **options)
    source = path
    previews: tuple[Preview, ...] = ()
    if not isinstance(model, OnnxModel):
        source = folder / "model.onnx"
        export_onnx(model, source)
        previews = preview_torch(model)
    proto, found = preview_graph(source, folder)
    graph = load_outline(source) if proto is None else proto
    layers = layer_costs(graph)
    limits = hf_folder.limits(path if path.is_dir() else path.parent)
    if limits is None or all(layer.flops is not None for layer in layers):
        return layers, (*previews, *found), ""
    sounds = any(value.name == "input_values" for value in graph.graph.input)
    said = f"a sound of {limits.samples} samples" if sounds else f"a text of {limits.length} tokens"
    return layer_costs(graph, _sizes(graph, limits)), (*previews, *found), f"FLOPs are for {said}."


def _sizes(graph: onnx.ModelProto, limits: Limits) -> Sizes:
    """One text or sound of the length that such have by default, its cache empty."""
    return {
        value.name: [
            0 if value.name.startswith(PAST) else limits.samples if value.name == "input_values" else limits.length
        ]
        * (len(value.type.tensor_type.shape.dim) - 1)
        for value in graph.graph.input
    }
