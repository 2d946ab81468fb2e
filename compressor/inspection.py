"""What a model holds, what its layers cost, and what each method would do to it: ``compress inspect``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError

if TYPE_CHECKING:
    from compressor.flops import LayerCost
    from compressor.model.describe import Description
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
            layers, previews = _graph(path, Path(folder), options)
    except CompressorError as error:
        note = f"FLOPs, and what the methods would do, are not known: {error}"
        return Inspection(description, (), None, (), (*description.notes, note))
    known = [layer.flops for layer in layers if layer.flops is not None]
    flops = sum(known) if len(known) == len(layers) else None
    free = () if flops is not None else ("FLOPs depend on sizes that the file leaves free, or on control flow.",)
    return Inspection(description, layers, flops, previews, (*description.notes, *free))


def _graph(path: Path, folder: Path, options: dict[str, Any]) -> tuple[tuple[LayerCost, ...], tuple[Preview, ...]]:
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
    return layer_costs(load_outline(source) if proto is None else proto), (*previews, *found)
