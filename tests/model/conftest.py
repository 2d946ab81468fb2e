"""One small trained-looking network, saved as every kind of file, and tools to tamper with those files."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from safetensors.torch import save_file

NET = '''
"""A residual network with BatchNorm; (N, 2, 8, 8) to (N, 3)."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        y = torch.relu(self.bn(self.stem(x)))
        y = torch.relu(self.conv(y) + y)
        return self.head(y.mean((2, 3)))


def net():
    return Net()
'''


@dataclass(frozen=True)
class Saved:
    """The network and its files.

    Attributes:
        folder: Where they are.
        arch: The ``--arch`` that builds the network.
        module: The network.
        x: Three inputs.
        y: What the network makes of them.
    """

    folder: Path
    arch: str
    module: torch.nn.Module
    x: torch.Tensor
    y: torch.Tensor

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def _import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("models")
    (folder / "net.py").write_text(NET)
    torch.manual_seed(0)
    module = _import_file(folder / "net.py", "net_of_the_model_tests").Net()
    # A few batches, so that the running statistics are not those of a new network.
    for _ in range(3):
        module(torch.randn(8, 2, 8, 8))
    module.eval()
    x = torch.randn(3, 2, 8, 8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    torch.export.save(torch.export.export(module, (x[:1],)), folder / "static.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files live on
        torch.jit.script(module).save(folder / "scripted.pt")
        torch.jit.trace(module, x).save(folder / "traced.pt")
    torch.save(module.state_dict(), folder / "state.pt")
    torch.save(module.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(module, folder / "pickled.pt")
    save_file(module.state_dict(), folder / "net.safetensors")
    onnx.save(_tiny_onnx(), folder / "net.onnx")
    with torch.no_grad():
        return Saved(folder, f"{folder / 'net.py'}:net", module, x, module(x))


def _tiny_onnx(external: str | None = None) -> onnx.ModelProto:
    """``y = x @ w + b``; the data of ``w`` in the file ``external`` if that is given."""
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(torch.arange(12.0).reshape(4, 3).numpy(), "w")
    bias = onnx.numpy_helper.from_array(torch.ones(3).numpy(), "b")
    if external is not None:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", external), ("offset", "0"), ("length", "48")):
            weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [weight, bias],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _rewrite(
    source: Path, target: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None
) -> Path:
    """Copy a zip archive, with every member put through ``change`` and ``extra`` members added in its top folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        top = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in (extra or {}).items():
            new.writestr(f"{top}/{name}", content)
    return target


class Payload:
    """Pickled, it creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


# Tests are imported without packages, so what they share comes as fixtures.


@pytest.fixture(name="tiny_onnx")
def tiny_onnx_fixture() -> Callable[..., onnx.ModelProto]:
    return _tiny_onnx


@pytest.fixture(name="rewrite")
def rewrite_fixture() -> Callable[..., Path]:
    return _rewrite


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload creates."""
    return tmp_path / "marker"


@pytest.fixture
def payload(marker: Path) -> Payload:
    return Payload(marker)
