from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressor.errors import MethodError
from compressor.model.base import TorchModel
from compressor.passes.base import Context
from compressor.passes.bf16 import Bf16
from compressor.passes.registry import make_pass
from compressor.results import ModelSummary, Step, TensorSpec
from compressor.runtimes.registry import open_session
from compressor.torchao_file import GRAPH, companions, describe_torchao, load

HERE = Context(task=None, cpu_features=("avx512_bf16",))


class Odd(nn.Module):
    """What a cast of all weights alone breaks: written types, a table that is no weight, an operator in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.cell = nn.LSTM(8, 16, batch_first=True)
        self.scale = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        self.register_buffer("mean", torch.full((4, 1), 0.5))
        self.register_buffer("table", torch.linspace(-1, 1, 10)[:, None], persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x - self.mean
        x = x + torch.fft.rfft(x).abs().mean(-1, keepdim=True)  # no bfloat16 kernel
        y, _ = self.cell(torch.relu(self.norm(self.conv(x))).transpose(1, 2))  # its first state is written as float32
        y = self.scale(y + self.table)
        y = torch.softmax(y @ y.transpose(1, 2), -1, dtype=torch.float32) @ y
        return self.head(y.mean(1)), y.argmax(-1)


class Watch(TorchDispatchMode):
    """Notes of which types the products are that PyTorch really computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in {"addmm", "mm", "bmm", "convolution", "linear", "mkldnn_rnn_layer"}:
            self.count += 1
            self.seen |= {x.dtype for x in tree_leaves(args) if isinstance(x, Tensor) and x.is_floating_point()}
        return func(*args, **(kwargs or {}))


def torch_model(module: nn.Module, *shape: int) -> TorchModel:
    inputs = (TensorSpec("x", "float32", (None, *shape)),)
    summary = ModelSummary("m", "m.pt2", "exported program", "00", 1, 1, inputs)
    return TorchModel("m", module.eval().requires_grad_(False), (torch.randn(2, *shape),), inputs, summary)


@pytest.fixture(scope="module")
def odd() -> TorchModel:
    torch.manual_seed(0)
    return torch_model(Odd(), 4, 10)


@pytest.fixture(scope="module")
def made(odd: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Step]:
    target = tmp_path_factory.mktemp("made") / "model.safetensors"
    before = {name: value.clone() for name, value in odd.module.state_dict().items()}
    step = make_pass("bf16").apply(odd, target, HERE)
    assert all(torch.equal(before[name], value) for name, value in odd.module.state_dict().items())
    return target, step


def test_all_that_multiplies_does_so_in_bfloat16(odd: TorchModel, made: tuple[Path, Step]) -> None:
    target, step = made
    assert step.notes == ("bf16: 5 of 5 compute ops.",)
    assert step.settings == {"rules": "", "emulated": False}
    session = open_session(target)
    counts = session.kernels()
    assert (counts.compute, counts.low_precision, counts.precision, counts.left) == (5, 5, "bf16", {})
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == ["float32", "float32", "int64"]
    with Watch() as watch, torch.no_grad():
        load(target)[0](*odd.example_inputs)
    assert watch.count >= 5
    assert watch.seen == {torch.bfloat16}


def test_it_computes_nearly_the_same(odd: TorchModel, made: tuple[Path, Step]) -> None:
    x = np.random.default_rng(0).standard_normal((7, 4, 10)).astype(np.float32)
    found, top = open_session(made[0]).run((x,))
    expected, _ = odd.module(torch.from_numpy(x))
    assert (found.dtype, top.dtype) == (np.float32, np.int64)
    assert 0 < np.linalg.norm(found - expected.numpy()) / np.linalg.norm(expected.numpy()) < 0.02


def test_weights_take_half_the_room(odd: TorchModel, made: tuple[Path, Step]) -> None:
    from safetensors.torch import load_file

    held = load_file(made[0])
    assert {str(tensor.dtype) for tensor in held.values()} == {"torch.bfloat16", "torch.int64"}  # BatchNorm's counter
    assert "table" not in held
    artifact = describe_torchao(made[0], 7, (), made[0].parent)
    assert (artifact.format, artifact.opset, artifact.parameters) == ("safetensors", None, 7)
    assert companions(made[0]) == [made[0].parent / GRAPH]


def test_rules_keep_layers_in_float32(odd: TorchModel, tmp_path: Path) -> None:
    step = make_pass("bf16", rules=("exclude cell", "exclude head")).apply(odd, tmp_path / "model.safetensors", HERE)
    assert step.notes == ("bf16: 3 of 5 compute ops.", "Left as it was, excluded by a rule: cell, head.")
    module, about = load(tmp_path / "model.safetensors")
    assert module.get_parameter("head.weight").dtype is torch.float32
    assert module.get_parameter("conv.weight").dtype is torch.bfloat16
    assert about.left == {"cell": "excluded by a rule", "head": "excluded by a rule"}
    assert open_session(tmp_path / "model.safetensors").run((np.zeros((3, 4, 10), np.float32),))[0].shape == (3, 5)


def test_weights_of_an_operator_without_a_kernel_stay_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution that refuses bfloat16 stands for one that has no such kernel: here all have."""
    model = torch_model(nn.Sequential(nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(32, 3)), 4, 10)
    kernel = torch.ops.aten.conv1d.default

    def without(self, n):
        if n.target is kernel and any(self.env[x].dtype is torch.bfloat16 for x in n.all_input_nodes):
            raise NotImplementedError("not implemented for 'BFloat16'")
        return run_node(self, n)

    run_node = torch.fx.Interpreter.run_node
    monkeypatch.setattr(torch.fx.Interpreter, "run_node", without)
    step = make_pass("bf16").apply(model, tmp_path / "model.safetensors", HERE)
    monkeypatch.undo()
    assert step.notes == (
        "bf16: 1 of 2 compute ops.",
        "Left as it was, PyTorch has no bfloat16 kernel for it: 0.",
    )
    module, _ = load(tmp_path / "model.safetensors")
    assert module.get_parameter("0.weight").dtype is torch.float32
    assert module.get_parameter("2.weight").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("features", "note"),
    [
        (("avx2", "amx_bf16"), ""),
        (("bf16", "neon"), ""),
        (("avx2", "avx512f"), "This CPU has no bfloat16 instructions: PyTorch emulates them; expect it to be slower."),
        (
            (),
            "It is not known whether this CPU has bfloat16 instructions. If not: PyTorch emulates them; expect it to "
            "be slower.",
        ),
    ],
)
def test_a_cpu_that_emulates_it_is_told_first(features: tuple[str, ...], note: str, tmp_path: Path) -> None:
    model = torch_model(nn.Sequential(nn.Linear(4, 3)), 4)
    context = Context(task=None, cpu_features=features)
    step = make_pass("bf16").apply(model, tmp_path / "model.safetensors", context)
    assert step.notes == ((note, "bf16: 1 of 1 compute ops.") if note else ("bf16: 1 of 1 compute ops.",))
    assert step.settings["emulated"] is bool(note)


def test_an_old_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU: none is here."""
    from compressor.passes.bf16 import _lacking

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake GPU")
    assert _lacking(Context(task=None, device="cuda:1")) == "Fake GPU has no bfloat16 instructions"


def test_a_model_that_multiplies_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MethodError) as caught:
        make_pass("bf16").apply(torch_model(nn.ReLU(), 4), tmp_path / "model.safetensors", HERE)
    assert str(caught.value) == (
        "bf16: changed nothing in this model (it has no layer that does arithmetic); use int8, which works on the "
        "exported graph"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "counts", "rules"), [("llama", (17, 18), ()), ("gpt2", (7, 11), ("exclude *.h.0.*",))]
)
def test_a_hugging_face_model(name: str, counts: tuple[int, int], rules: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="not run: transformers is not installed")
    from tiny_transformers import save_tiny

    from compressor.model.hf_load import load_folder

    save_tiny(name, tmp_path / "given")
    model = load_folder(tmp_path / "given")
    (tmp_path / "made").mkdir()
    target = tmp_path / "made" / "model.safetensors"
    step = make_pass("bf16", rules=rules).apply(model, target, HERE)
    kernels = open_session(target).kernels()
    assert (kernels.low_precision, kernels.compute) == counts
    # The angles of rotary positions are a product that transformers itself keeps in float32.
    why = "excluded by a rule" if rules else "the model asks for float32 there"
    assert set(kernels.left.values()) == {why}
    assert step.notes[0] == f"bf16: {counts[0]} of {counts[1]} compute ops."
    found = open_session(target).run(tuple(x.numpy() for x in model.example_inputs))
    for one, other in zip(found, model.module(*model.example_inputs), strict=True):
        assert one.dtype == np.float32
        assert 0 < np.linalg.norm(one - other.numpy()) <= 0.02 * np.linalg.norm(other.numpy())
    # Tied weights are held once, and transformers reads the folder as any other.
    assert target.stat().st_size < 0.75 * (tmp_path / "given" / "model.safetensors").stat().st_size
    again = load_folder(tmp_path / "made")
    assert again.module(*again.example_inputs)[0].dtype is torch.float32


def test_the_layers_that_rules_choose_are_listed(odd: TorchModel) -> None:
    assert Bf16().layers(odd) == {"conv": "conv1d", "cell": "lstm", "head": "linear"}
