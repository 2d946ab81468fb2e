from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import MethodError
from compressor.export import export_onnx
from compressor.model.base import Arrays, TorchModel
from compressor.passes.base import Context
from compressor.passes.calibration import channel_maxima
from compressor.passes.int8 import Int8Static
from compressor.passes.rewrites import prepare
from compressor.passes.smoothquant import SmoothQuant, products, smooth
from compressor.results import ModelSummary, TensorSpec
from compressor.runtimes.registry import open_session
from compressor.task.base import Examples

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]


class Outliers(nn.Module):
    """Two blocks of a transformer's feed-forward part, with a few channels a hundred times larger than the rest."""

    def __init__(self, factor: float = 100.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(64) for _ in range(2)])
        self.up = nn.ModuleList([nn.Linear(64, 128) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(128, 64) for _ in range(2)])
        with torch.no_grad():
            for norm, up in zip(self.norms, self.up, strict=True):
                norm.weight[::20] *= factor
                up.weight[:, ::20] /= factor

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(nn.functional.gelu(up(norm(x))))
        return x


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    path = tmp_path_factory.mktemp("outliers") / "m.onnx"
    torch.manual_seed(0)
    specs = (TensorSpec("x", "float32", (None, 6, 64)),)
    summary = ModelSummary("m", "m", "exported program", "0" * 64, 1, None, specs)
    export_onnx(TorchModel("m", Outliers().eval(), (torch.randn(2, 6, 64),), specs, summary), path)
    return path, (np.random.default_rng(0).standard_normal((64, 6, 64)).astype(np.float32),)


def error(source: Path, target: Path, inputs: Arrays) -> float:
    expected, got = open_session(source).predict(inputs), open_session(target).predict(inputs)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_outliers_no_longer_spoil_static_int8(outliers: tuple[Path, Arrays], vnni: OnVnni, tmp_path: Path) -> None:
    source, inputs = outliers
    Int8Static().apply(source, tmp_path / "static.onnx", vnni(inputs))
    step = SmoothQuant().apply(source, tmp_path / "smooth.onnx", vnni(inputs))
    assert error(source, tmp_path / "smooth.onnx", inputs) < 0.02
    assert error(source, tmp_path / "smooth.onnx", inputs) < error(source, tmp_path / "static.onnx", inputs) / 5
    found = open_session(tmp_path / "smooth.onnx").kernels()
    assert (found.low_precision, found.compute) == (4, 4)
    assert step.notes[:2] == (
        "Static int8 (ranges from calibration): 4 matrix products.",
        "Smoothed: 4 activations, 2 of them inside the LayerNormalization in front, "
        "2 by a multiplication of their own.",
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_smoothing_itself_changes_nothing(outliers: tuple[Path, Arrays], tmp_path: Path, alpha: float) -> None:
    source, inputs = outliers
    proto = prepare(source, tmp_path)
    layers = set(products(proto))
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if node.name in layers:
            readers.setdefault(node.input[0], []).append(node)
    sizes = {name: 128 if index % 2 else 64 for index, name in enumerate(readers)}
    maxima = channel_maxima(proto, sizes, Examples(inputs, None), tmp_path, 1)
    assert smooth(proto, readers, maxima, alpha) == 2
    onnx.save(proto, tmp_path / "smooth.onnx")
    assert error(source, tmp_path / "smooth.onnx", inputs) < 1e-4


@pytest.mark.parametrize(("name", "low", "compute"), [("patches", 6, 8), ("shared", 2, 2), ("mlp", 2, 2)])
def test_other_architectures(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str, low: int, compute: int) -> None:
    source, inputs = zoo(name)
    SmoothQuant().apply(source, tmp_path / "a.onnx", vnni(inputs))
    found = open_session(tmp_path / "a.onnx").kernels()
    assert (found.low_precision, found.compute) == (low, compute)
    assert error(source, tmp_path / "a.onnx", inputs) < 0.04


@pytest.mark.parametrize(("alpha", "closest"), [(-0.1, 0), (1.5, 1)])
def test_alpha_out_of_range(alpha: float, closest: int) -> None:
    with pytest.raises(MethodError) as caught:
        SmoothQuant(alpha)
    assert str(caught.value) == f"smoothquant: alpha must be from 0 to 1, not {alpha:g}; the nearest is {closest}"


def test_model_without_products_is_refused(vnni: OnVnni, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, ["n", 4])], [value("y", 1, ["n", 4])]
    )
    source = tmp_path / "s.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), source)
    with pytest.raises(MethodError) as caught:
        SmoothQuant().apply(source, tmp_path / "a.onnx", vnni((np.ones((2, 4), np.float32),)))
    assert str(caught.value) == (
        "smoothquant: there is nothing to quantize: no matrix product with float32 weights; "
        "it is for transformers; use int8 for convolutions"
    )
