from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from compressor.model.describe import Layer, describe
from compressor.results import TensorSpec

SPEC = (TensorSpec("x", "float32", (None, 2, 8, 8)),)
LAYERS = (
    Layer("stem", "Conv2d", (4, 2, 3, 3), 72),
    Layer("bn", "BatchNorm2d", (4,), 8),
    Layer("conv", "Conv2d", (4, 4, 3, 3), 148),
    Layer("head", "Linear", (3, 4), 15),
)


@pytest.mark.parametrize(
    ("name", "kind", "inputs"),
    [("net.pt2", "exported program", SPEC), ("scripted.pt", "TorchScript", ()), ("traced.pt", "TorchScript", ())],
)
def test_models(saved, name, kind, inputs):
    found = describe(saved[name])
    assert (found.kind, found.inputs, found.layers, found.parameters) == (kind, inputs, LAYERS, 243)
    assert found.sha256 == hashlib.sha256(saved[name].read_bytes()).hexdigest()
    assert found.size_bytes == saved[name].stat().st_size
    json.dumps(dataclasses.asdict(found))


@pytest.mark.parametrize("name", ["state.pt", "legacy.pt", "net.safetensors"])
def test_weights_alone(saved, name):
    found = describe(saved[name])
    assert len(found.layers) == 10
    assert Layer("head.weight", "tensor", (3, 4), 12) in found.layers
    assert found.notes == ("Weights only: the architecture is in code, named with --arch.",)
    found = describe(saved[name], arch=saved.arch, input_shapes=((2, 8, 8),))
    assert (found.layers, found.inputs, found.parameters) == (LAYERS, SPEC, 243)


def test_a_pickled_module(saved):
    assert describe(saved["pickled.pt"], allow_pickle=True).layers == LAYERS


def test_onnx(saved):
    found = describe(saved["net.onnx"])
    assert found.layers == (Layer("xw", "MatMul", (4, 3), 12), Layer("y", "Add", (3,), 3))
    assert found.inputs == (TensorSpec("x", "float32", (None, 4)),)
