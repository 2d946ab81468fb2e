from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor import onnx_file
from compressor.errors import ExportError, ModelError, UnsafeFileError
from compressor.export import check_parity, describe_onnx, export_onnx, export_program
from compressor.model.base import TorchModel
from compressor.results import ModelSummary, Step, TensorSpec
from compressor.runtimes.registry import open_session


def torch_model(module: nn.Module, *examples: Tensor, fixed: bool = False) -> TorchModel:
    """What the model loader would make of a module."""
    specs = tuple(
        TensorSpec(f"in{i}", str(x.dtype).removeprefix("torch."), (len(x) if fixed else None, *x.shape[1:]))
        for i, x in enumerate(examples)
    )
    summary = ModelSummary("m", "m.pt2", "exported program", "0" * 64, 1, None, specs)
    return TorchModel("m", module.eval(), examples, specs, summary, (Step("load", {}),))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tokens(nn.Module):
    """Two inputs (int64, bool), two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.linear = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(self.embedding(ids))
        return (y * mask.unsqueeze(-1)).sum(1), y


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8), nn.SiLU(),
        nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)
    )


ZOO: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "mlp": lambda: (nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), (torch.randn(2, 8),)),
    "double": lambda: (nn.Linear(8, 4).double(), (torch.randn(2, 8, dtype=torch.float64),)),
    "separable": lambda: (separable(), (torch.randn(2, 3, 12, 12),)),
    "one-dimensional": lambda: (one_dimensional(), (torch.randn(2, 4, 20),)),
    "transformer": lambda: (encoder(), (torch.randn(2, 8, 32),)),
    "lstm": lambda: (Recurrent(), (torch.randn(2, 10, 8),)),
    "tokens": lambda: (Tokens(), (torch.randint(0, 10, (2, 5)), torch.rand(2, 5) > 0.5)),
}


@pytest.mark.parametrize("fixed", [False, True], ids=["free", "fixed"])
@pytest.mark.parametrize("name", ZOO)
def test_both_files_compute_what_the_module_computes(tmp_path: Path, name: str, fixed: bool) -> None:
    torch.manual_seed(0)
    module, examples = ZOO[name]()
    model = torch_model(module, *examples, fixed=fixed)
    program = export_program(model, tmp_path / "m.pt2")
    artifact = export_onnx(model, tmp_path / "m.onnx")

    inputs = tuple(torch.cat([x, x.flip(0), x[:1]]) for x in examples)
    with torch.no_grad():
        expected = module(*inputs)
    first = expected[0] if isinstance(expected, tuple) else expected
    arrays = tuple(x.numpy() for x in inputs)
    sessions = [open_session(tmp_path / file) for file in ("m.pt2", "m.onnx")]
    for session in sessions:
        np.testing.assert_allclose(session.predict(arrays), first.numpy(), atol=1e-5)
    parity = check_parity(*sessions, arrays, reference_name="torch", tolerance=1e-5)
    assert (parity.examples, parity.reference, parity.tolerance) == (5, "torch", 1e-5)
    assert 0 <= parity.relative <= 1e-5

    assert (artifact.format, artifact.opset, artifact.path) == ("onnx", 20, "m.onnx")
    assert artifact.inputs == model.inputs
    assert [spec.shape[0] for spec in artifact.outputs] == [2 if fixed else None] * len(artifact.outputs)
    assert artifact.size_bytes == (tmp_path / "m.onnx").stat().st_size
    assert artifact.sha256 == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert [step.method for step in artifact.steps] == ["load", "export"]
    assert (program.format, program.opset, program.inputs) == ("pt2", None, model.inputs)
    assert program.parameters == sum(x.numel() for x in module.parameters())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.pt2"]


def test_file_says_nothing_of_this_machine_and_is_named_after_the_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch_model(separable(), torch.randn(2, 3, 12, 12))
    export_onnx(model, tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    for trace in (b"site-packages", b".py", b"stack_trace", b"pkg.torch", b"home", str(tmp_path).encode()):
        assert trace not in content
    proto = onnx.load(tmp_path / "m.onnx")
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    assert convolutions == ["0/Conv", "3/Conv", "5/Conv"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.graph.output[0].name == "output"
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_same_weights_give_the_same_file_whichever_way_they_came(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = separable(), torch.randn(2, 3, 12, 12)
    first = export_onnx(torch_model(module, example), tmp_path / "a.onnx")
    export_program(torch_model(module, example), tmp_path / "m.pt2")
    reloaded = torch.export.load(tmp_path / "m.pt2").module()
    again = separable()
    again.load_state_dict(module.state_dict())
    for name, other in {"state-dict": again, "pt2": reloaded}.items():
        model = torch_model(module, example)
        model = TorchModel("m", other.eval() if other is again else other, (example,), model.inputs, model.summary)
        assert export_onnx(model, tmp_path / f"{name}.onnx").sha256 == first.sha256, name


def test_free_axis_keeps_the_bounds_of_an_exported_program(tmp_path: Path) -> None:
    bounded = torch.export.export(
        nn.Linear(3, 2).eval(), (torch.randn(2, 3),), dynamic_shapes=({0: torch.export.Dim("n", max=64)},)
    )
    model = torch_model(nn.Linear(3, 2), torch.randn(2, 3))
    model = TorchModel("m", bounded.module(), model.example_inputs, model.inputs, model.summary)
    export_onnx(model, tmp_path / "m.onnx")
    assert open_session(tmp_path / "m.onnx").predict((np.ones((1, 3), np.float32),)).shape == (1, 2)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class FixedReshape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class ThroughNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + float(x.numpy().sum())


@torch.library.custom_op("compressor_tests::negate", mutates_args=())
def negate(x: Tensor) -> Tensor:
    return -x


@negate.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.compressor_tests.negate(x) * 2


def line_of(code: str) -> int:
    """Number of the only line of this file that is exactly this code."""
    (number,) = [i for i, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.strip() == code]
    return number


def test_control_flow_that_depends_on_data(tmp_path: Path) -> None:
    model = torch_model(Branch(), torch.randn(2, 3))
    with pytest.raises(ExportError) as caught:
        export_program(model, tmp_path / "m.pt2")
    assert str(caught.value) == (
        f"m, test_export.py:{line_of('if x.sum() > 0:')} 'if x.sum() > 0:': what the model does depends on the values "
        "of its input; replace the Python branch or .item() by torch.where, or by torch.cond"
    )
    assert list(tmp_path.iterdir()) == []


def test_batch_that_the_model_fixes(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(torch_model(FixedReshape(), torch.randn(2, 3, 4)), tmp_path / "m.onnx")
    assert str(caught.value) == (
        "m: its forward() fixes an axis that should be free to 2; use x.shape[0] or -1 where a reshape or view has "
        "that number, or give the model a fixed batch"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_is_returned_as_it_came(tmp_path: Path) -> None:
    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.head(x), x, x

    model = torch_model(Passing(), torch.randn(2, 4))
    artifact = export_onnx(model, tmp_path / "m.onnx")
    assert [(spec.name, spec.shape) for spec in (*artifact.inputs, *artifact.outputs)] == [
        ("in0", (None, 4)), ("output_0", (None, 3)), ("output_1", (None, 4)), ("output_2", (None, 4)),
    ]  # fmt: skip
    rows = np.random.default_rng(0).random((5, 4), np.float32)
    _, first, second = open_session(tmp_path / "m.onnx").run((rows,))
    assert np.array_equal(first, rows)
    assert np.array_equal(second, rows)


def test_code_that_leaves_torch(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(torch_model(ThroughNumpy(), torch.randn(2, 3)), tmp_path / "m.onnx")
    code = "return x + float(x.numpy().sum())"
    assert str(caught.value).startswith(f"m, test_export.py:{line_of(code)} '{code}': torch.export cannot trace it: ")
    assert "\n" not in str(caught.value)


def test_operator_that_onnx_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(torch_model(Custom(), torch.randn(2, 3)), tmp_path / "m.onnx")
    line = line_of("return torch.ops.compressor_tests.negate(x) * 2")
    assert str(caught.value) == (
        f"m, test_export.py:{line}: ONNX has no operator for compressor_tests::negate; write it with standard torch "
        "operations, or move it out of the model"
    )
    assert list(tmp_path.iterdir()) == []


def test_parity_refuses_another_model_and_reports_how_far(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(4, 3), np.ones((5, 4), np.float32)
    export_onnx(torch_model(module, torch.randn(2, 4)), tmp_path / "a.onnx")
    with torch.no_grad():
        module.weight *= 1.5
        module.bias *= 1.5
    export_onnx(torch_model(module, torch.randn(2, 4)), tmp_path / "b.onnx")
    a, b = open_session(tmp_path / "a.onnx"), open_session(tmp_path / "b.onnx")
    found = check_parity(a, b, (x,), reference_name="torch", tolerance=None)
    assert found.relative == pytest.approx(0.5, rel=1e-5)
    assert found.same_top1 == 1.0
    assert found.max_abs == pytest.approx(0.5 * np.abs(a.predict((x,))).max(), rel=1e-5)
    with pytest.raises(ExportError, match=r"^parity: outputs differ from torch by 0\.5 \(relative\), more than 0\.001"):
        check_parity(a, b, (x,), reference_name="torch", tolerance=1e-3)
    with pytest.raises(ExportError, match=r"^parity: output 0 of torch is not finite; check the inputs"):
        check_parity(a, b, (x * np.nan,), reference_name="torch", tolerance=None)


def test_weights_above_the_limit_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch_model(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)), torch.randn(2, 64))
    whole = export_onnx(model, tmp_path / "whole.onnx")
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
    split = export_onnx(model, tmp_path / "split.onnx")
    data = tmp_path / "split.onnx.data"
    both = (tmp_path / "split.onnx").read_bytes() + data.read_bytes()
    assert (split.size_bytes, split.sha256) == (len(both), hashlib.sha256(both).hexdigest())
    assert split.parameters == whole.parameters == 64 * 64 + 64 + 64 * 8 + 8
    x = (np.ones((3, 64), np.float32),)
    outputs = [open_session(tmp_path / f"{name}.onnx").predict(x) for name in ("whole", "split")]
    np.testing.assert_array_equal(*outputs)
    data.unlink()
    with pytest.raises(ModelError) as caught:
        describe_onnx(tmp_path / "split.onnx", ())
    assert str(caught.value) == (
        f"{tmp_path / 'split.onnx'}: its weights are in split.onnx.data, which is not there; put it beside"
    )


def test_describing_what_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX file: "):
        describe_onnx(tmp_path / "x.onnx", ())


def test_weights_outside_the_folder_are_refused(tmp_path: Path, chain: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 64 * 64 * 4)
    proto = onnx.load(chain)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeFileError) as caught:
        describe_onnx(folder / "m.onnx", ())
    assert str(caught.value) == f"{folder / 'm.onnx'}: its weights are outside its folder, in ../secret"
