from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, MethodError, ModelError
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.registry import make_pass
from compressor.passes.torchao_methods import TorchaoSparse24
from compressor.results import ModelSummary, TensorSpec
from compressor.runtimes.registry import open_session
from compressor.torchao_file import GRAPH, companions, describe_torchao, read_about

INT8 = ("torchao-int8-dynamic", "torchao-int8-weight-only")
GPU_ONLY = {"torchao-int4-weight-only": "8.0", "torchao-fp8": "8.9", "torchao-2:4": "8.0"}
INPUTS = (TensorSpec("x", "float32", (None, 32)),)


class Mixed(nn.Module):
    """Linear layers, a convolution, a weight that an embedding uses too, and buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)
        self.first = nn.Linear(32, 64)
        self.table = nn.Embedding(16, 64)
        self.head = nn.Linear(64, 16, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.full((64,), 2.0))
        self.register_buffer("shift", torch.full((64,), 0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(self.conv(x[:, None])[:, 0])) * self.scale + self.shift
        return self.head(y + self.table(torch.zeros(1, dtype=torch.int64)))


def torch_model(module: nn.Module) -> TorchModel:
    summary = ModelSummary("m", "m.pt2", "exported program", "00", 1, 1, INPUTS)
    return TorchModel("m", module.eval().requires_grad_(False), (torch.randn(2, 32),), INPUTS, summary)


@pytest.fixture(scope="module")
def mixed() -> TorchModel:
    torch.manual_seed(0)
    return torch_model(Mixed())


@pytest.fixture(scope="module")
def made(mixed: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "model.safetensors"
    make_pass("torchao-int8-dynamic").apply(mixed, target, Context(task=None))
    return target


@pytest.mark.parametrize("name", INT8)
def test_what_is_changed_is_counted_and_computes_nearly_the_same(name: str, mixed: TorchModel, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in mixed.module.state_dict().items()}
    target = tmp_path / "model.safetensors"
    step = make_pass(name).apply(mixed, target, Context(task=None))
    assert step.notes == (
        "int8: 1 of 3 layers that do arithmetic, by torchao.",
        "Left as it was, also used elsewhere: head.",
        "Left as it was, torchao quantizes linear layers only: conv1d.",
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == [GRAPH, "model.safetensors"]
    session = open_session(target)
    counts = session.kernels()
    assert (counts.compute, counts.low_precision, counts.precision) == (3, 1, "int8")
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    expected = mixed.module(torch.from_numpy(x)).numpy()
    found = session.predict((x,))
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.03
    after = mixed.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_nothing_in_the_files_is_a_pickle(made: Path) -> None:
    archive = zipfile.ZipFile(made.parent / GRAPH)
    assert not any(archive.read(name).startswith((b"\x80", b"PK")) for name in archive.namelist())
    samples = [entry.file_size for entry in archive.infolist() if "sample_inputs" in entry.filename]
    assert samples == [0]
    weights = [entry.file_size for entry in archive.infolist() if "weights/weight_" in entry.filename]
    assert max(weights) <= 8  # the numbers are in model.safetensors, not here
    length = int.from_bytes(made.read_bytes()[:8], "little")
    header = json.loads(made.read_bytes()[8 : 8 + length])
    assert header["quantized.first._weight_qdata"]["dtype"] == "I8"


def test_the_record_covers_both_files(made: Path) -> None:
    artifact = describe_torchao(made, 7, (), made.parent)
    assert (artifact.format, artifact.path, artifact.parameters) == ("torchao", "model.safetensors", 7)
    assert artifact.size_bytes == sum(file.stat().st_size for file in made.parent.iterdir())
    assert artifact.inputs == INPUTS
    assert [(spec.dtype, spec.shape) for spec in artifact.outputs] == [("float32", (None, 16))]
    assert companions(made) == [made.parent / GRAPH]
    assert read_about(made).config["_type"] == "Int8DynamicActivationInt8WeightConfig"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing", f"{GRAPH}: is missing: the module is built from it; keep it beside model.safetensors"),
        ("changed", f"{GRAPH}: is not the one that model.safetensors was written with"),
        ("cut", "model.safetensors: is a damaged safetensors file"),
    ],
)
def test_damaged_files_are_told(harm: str, message: str, made: Path, tmp_path: Path) -> None:
    for file in made.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph, weights = tmp_path / GRAPH, tmp_path / "model.safetensors"
    if harm == "missing":
        graph.unlink()
    elif harm == "changed":
        graph.write_bytes(graph.read_bytes() + b" ")
    else:
        weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CompressorError) as caught:
        open_session(weights)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_none_of_ours(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert read_about(tmp_path / "w.safetensors") is None
    with pytest.raises(ModelError, match="is not what bf16 or a torchao method writes"):
        describe_torchao(tmp_path / "w.safetensors", None, ())


@pytest.mark.parametrize("name", INT8)
def test_a_model_without_linear_layers_is_an_error(name: str, tmp_path: Path) -> None:
    model = torch_model(nn.Sequential(nn.Unflatten(1, (1, 32)), nn.Conv1d(1, 2, 3), nn.Flatten()))
    with pytest.raises(MethodError) as caught:
        make_pass(name).apply(model, tmp_path / "model.safetensors", Context(task=None))
    assert str(caught.value) == (
        f"{name}: changed nothing in this model (torchao quantizes linear layers only: 1); use int8, which works on "
        "the exported graph"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "capability"), GPU_ONLY.items())
def test_methods_of_the_gpu_say_so_on_a_cpu(name: str, capability: str, mixed: TorchModel, tmp_path: Path) -> None:
    with pytest.raises(MethodError) as caught:
        make_pass(name).apply(mixed, tmp_path / "model.safetensors", Context(task=None))
    assert str(caught.value) == (
        f"{name}: has no kernel on a CPU: it needs an NVIDIA GPU of compute capability {capability} or newer; add "
        "--device cuda on such a machine; torchao-int8-dynamic and torchao-int8-weight-only run here"
    )


def test_a_gpu_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU: none is here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake GPU")
    make_pass("torchao-int4-weight-only").require("cuda")
    with pytest.raises(MethodError) as caught:
        make_pass("torchao-fp8").require("cuda:1")
    assert str(caught.value) == (
        "torchao-fp8: needs compute capability 8.9 or newer, and Fake GPU has 8.0; use torchao-int8-weight-only"
    )


def test_rules_choose_layers(tmp_path: Path) -> None:
    model = torch_model(nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 8)))
    step = make_pass("torchao-int8-dynamic", rules=("exclude 1",)).apply(
        model, tmp_path / "model.safetensors", Context(task=None)
    )
    assert step.notes[1] == "Left as it was, excluded by a rule: 1."
    assert read_about(tmp_path / "model.safetensors").layers == ("0.weight",)


def test_two_of_four_must_be_zero() -> None:
    dense = torch.randn(32, 64)
    pruned = dense.reshape(-1, 4).clone()
    pruned[:, :2] = 0
    method = TorchaoSparse24()
    assert method._unfit(dense) == "not two of four weights are 0 (put prune-2:4 before it)"
    assert method._unfit(pruned.reshape(32, 64)) == ""
    assert method._unfit(dense[:16]) == "sizes are no multiples of 32 and 64"


@pytest.mark.parametrize(("size", "fits"), [(128, False), (32, True)])
def test_int4_groups_must_fit(size: int, fits: bool) -> None:
    assert (make_pass("torchao-int4-weight-only", group_size=size)._unfit(torch.zeros(8, 96)) == "") is fits


def test_a_group_size_that_does_not_exist() -> None:
    with pytest.raises(MethodError, match="group_size 48 does not exist; known: 32, 64, 128, 256"):
        make_pass("torchao-int4-weight-only", group_size=48)


@pytest.mark.parametrize(("name", "layers"), [("bert", 14), ("llama", 15)])
def test_a_hugging_face_model_comes_back_from_its_folder(name: str, layers: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="not run: transformers is not installed")
    from tiny_transformers import save_tiny

    from compressor.model.hf_load import load_folder

    save_tiny(name, tmp_path / "given")
    model = load_folder(tmp_path / "given")
    (tmp_path / "made").mkdir()
    target = tmp_path / "made" / "model.safetensors"
    step = make_pass("torchao-int8-weight-only").apply(model, target, Context(task=None))
    assert step.notes == (f"int8: {layers} of {layers} layers that do arithmetic, by torchao.",)
    assert [file.name for file in companions(target)] == ["config.json", "signature.json"]
    session = open_session(target)
    found = session.run(tuple(x.numpy() for x in model.example_inputs))
    expected = model.module(*model.example_inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected) == len(session.outputs)
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other.numpy()) <= 0.02 * np.linalg.norm(other.numpy())
