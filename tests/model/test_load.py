from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.errors import DataError, ModelError
from compressor.model.base import OnnxModel
from compressor.model.load import load_model
from compressor.model.quiet import quiet_export
from compressor.model.signature import outputs_of
from compressor.results import TensorSpec

SHAPES = ((2, 8, 8),)
SPEC = (TensorSpec("x", "float32", (None, 2, 8, 8)),)
EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = ["net.pt2", "scripted.pt", "traced.pt", "state.pt", "legacy.pt", "net.safetensors", "pickled.pt"]


def options(saved, name: str) -> dict[str, object]:
    """What each kind needs besides its file."""
    return {
        "net.pt2": {},
        "pickled.pt": {"input_shapes": SHAPES, "allow_pickle": True},
        "scripted.pt": {"input_shapes": SHAPES},
        "traced.pt": {"input_shapes": SHAPES},
    }.get(name, {"input_shapes": SHAPES, "arch": saved.arch})


@pytest.mark.parametrize("name", KINDS)
def test_the_same_weights_through_every_kind(saved, tmp_path, name):
    # The name of the file says nothing.
    path = Path(shutil.copy(saved[name], tmp_path / "model.bin"))
    model = load_model(path, **options(saved, name))
    with torch.no_grad():
        torch.testing.assert_close(model.module(saved.x), saved.y, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.module(saved.x[:1]), saved.y[:1], rtol=0, atol=1e-5)
    assert model.inputs == SPEC
    assert [tuple(x.shape) for x in model.example_inputs] == [(2, 2, 8, 8)]
    assert model.summary.parameters == sum(p.numel() for p in saved.module.parameters())
    assert model.summary.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.summary.size_bytes == path.stat().st_size
    assert model.name == model.summary.name == "model"
    assert not model.module.training
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not model.module(saved.x).requires_grad
    # What the exporter will do with it.
    torch.export.export(model.module, model.example_inputs, dynamic_shapes=({0: torch.export.Dim("batch")},))


def test_the_example_architecture(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    try:
        import resnet
    finally:
        sys.path.remove(str(EXAMPLES))
    torch.manual_seed(0)
    module = resnet.resnet8().eval()
    x = torch.rand(2, 1, 28, 28)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.export.save(
        torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)), tmp_path / "net.pt2"
    )
    state = load_model(tmp_path / "state.pt", arch=f"{EXAMPLES}/resnet.py:resnet8", input_shapes=((1, 28, 28),))
    program = load_model(tmp_path / "net.pt2")
    assert state.summary.parameters == program.summary.parameters == 308_074
    with torch.no_grad():
        torch.testing.assert_close(state.module(x), program.module(x))


def test_a_link_is_fine(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved["net.pt2"])
    assert load_model(tmp_path / "link").name == "link"


def test_data_give_the_shape_and_the_rows(saved):
    rows = np.random.default_rng(0).random((5, 2, 8, 8))  # float64, as tables are
    for name in ("state.pt", "net.pt2", "traced.pt"):
        model = load_model(saved[name], **options(saved, name) | {"input_shapes": None}, example=(rows,))
        assert model.inputs == SPEC
        np.testing.assert_array_equal(model.example_inputs[0].numpy(), rows[:2].astype(np.float32))


def test_one_row_is_enough(saved):
    rows = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32)
    (x,) = load_model(saved["state.pt"], arch=saved.arch, example=(rows,)).example_inputs
    np.testing.assert_array_equal(x.numpy(), np.repeat(rows, 2, axis=0))


def test_neither_data_nor_shape(saved):
    for name, kind in (("state.pt", "state dict"), ("traced.pt", "TorchScript"), ("net.safetensors", "safetensors")):
        needed = options(saved, name) | {"input_shapes": None}
        with pytest.raises(ModelError) as caught:
            load_model(saved[name], **needed)
        assert str(caught.value) == (
            f"{saved[name]}: does not say what goes into it ({kind} files hold no input shapes); give --input-shape "
            "(without the batch, e.g. 1x28x28) or --data"
        )


def test_data_that_do_not_fit_the_file(saved):
    with pytest.raises(DataError) as caught:
        load_model(saved["net.pt2"], example=(np.zeros((4, 1, 28, 28), np.float32),))
    assert str(caught.value) == (
        f"{saved['net.pt2']}: input 'x' takes examples of shape (2, 8, 8) but (1, 28, 28) was given"
    )
    with pytest.raises(DataError, match=r"the model takes 1 input \(x\) but 2 were given$"):
        load_model(saved["net.pt2"], input_shapes=(*SHAPES, (3,)))
    with pytest.raises(DataError, match=r"input 'x' takes float32 but complex64 was given$"):
        load_model(saved["net.pt2"], example=(np.zeros((4, 2, 8, 8), np.complex64),))
    with pytest.raises(DataError, match=r"input 'x' takes examples of shape \(4\) but \(5\) was given$"):
        load_model(saved["net.onnx"], input_shapes=((5,),))


def test_shapes_that_the_module_does_not_take(saved):
    with pytest.raises(ModelError) as caught:
        load_model(saved["state.pt"], arch=saved.arch, input_shapes=((3, 8, 8),))
    text = str(caught.value)
    assert text.startswith(
        f"{saved['state.pt']}: does not run on an input of shape (2, 3, 8, 8) (float32): RuntimeError"
    )
    assert text.endswith("; check --input-shape (without the batch) or --data")


def test_a_file_whose_batch_is_fixed_keeps_it(saved):
    model = load_model(saved["static.pt2"])
    assert model.inputs[0].shape == (1, 2, 8, 8)
    assert model.example_inputs[0].shape == (1, 2, 8, 8)


def test_an_architecture_that_takes_only_one_example(saved, tmp_path):
    (tmp_path / "one.py").write_text(
        "import torch\nclass One(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.reshape(4))\ndef one():\n    return One(4, 1)\n"
    )
    torch.save(torch.nn.Linear(4, 1).state_dict(), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", arch=f"{tmp_path}/one.py:one", input_shapes=((4,),))
    assert model.inputs == (TensorSpec("x", "float32", (1, 4)),)
    assert model.example_inputs[0].shape == (1, 4)


def test_several_inputs_and_their_names(tmp_path):
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(10, 3)

        def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out/1": self.table(tokens).sum(1) * scale}

    batch = torch.export.Dim("batch")
    inputs = (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 1))
    program = torch.export.export(Two(), inputs, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, tmp_path / "two.pt2")
    model = load_model(tmp_path / "two.pt2")
    assert model.inputs == (TensorSpec("tokens", "int64", (None, 5)), TensorSpec("scale", "float32", (None, 1)))
    assert model.module(*model.example_inputs)["out/1"].shape == (2, 3)


def test_a_program_in_training_mode(tmp_path):
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)), (torch.ones(2, 3),)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "m.pt2")
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt2'}: was exported in training mode ('dropout' normalises or drops by the batch); call "
        "model.eval() before torch.export.export and save it anew"
    )


def test_programs_with_control_flow_and_symbolic_shapes(tmp_path):
    class Flow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (x,))
            with torch.no_grad():
                z = y.reshape(y.shape[0] * 2, -1)
            return z.repeat(3, 1)[: x.shape[0] * 3] * x.shape[0]

    x = torch.randn(4, 6)
    program = torch.export.export(Flow(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.export.save(program, tmp_path / "m.pt2")
    torch.testing.assert_close(load_model(tmp_path / "m.pt2").module(x), Flow()(x))


def test_programs_of_torch_2_7_and_older(saved, tmp_path):
    import zipfile

    from torch._export.serde.serialize import serialize

    artifact = serialize(torch.export.load(saved["net.pt2"]))
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.2")
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
    torch.testing.assert_close(load_model(tmp_path / "old.pt2").module(saved.x), saved.y)


def test_torchscript_that_cannot_be_converted(tmp_path):
    class Loop(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            words = {"a": 1.0}
            while bool(x.sum() < 3):
                x = x + words["a"]
            return x

    path = tmp_path / "m.pt"
    with quiet_export():
        torch.jit.script(Loop()).save(path)
    with pytest.raises(ModelError) as caught:
        load_model(path, input_shapes=((3,),))
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be converted from TorchScript: operator ")
    assert text.endswith("; save it as .pt2 with torch.export.save, from the model that it was scripted or traced from")


def test_onnx(saved):
    model = load_model(saved["net.onnx"])
    assert isinstance(model, OnnxModel)
    assert model.inputs == (TensorSpec("x", "float32", (None, 4)),)
    assert [(spec.dtype, spec.shape) for spec in model.outputs] == [("float32", (None, 3))]
    assert [(spec.dtype, spec.shape) for spec in outputs_of(load_model(saved["net.pt2"]))] == [("float32", (None, 3))]
    assert model.summary.parameters == 15
    assert model.summary.format == "ONNX"
    assert load_model(saved["net.onnx"], example=(np.zeros((7, 4), np.float32),)) == model


def test_a_first_output_without_a_row_per_example(saved):
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean()

    model = dataclasses.replace(load_model(saved["net.pt2"]), module=Mean())
    with pytest.raises(ModelError) as caught:
        outputs_of(model)
    assert str(caught.value) == (
        f"{saved['net.pt2']}: its first output has the shape () for 2 examples; return one row per example first: that "
        "output is scored"
    )


def test_an_architecture_where_none_is_needed(saved):
    for name, kind in (("net.pt2", "exported program"), ("net.onnx", "ONNX"), ("traced.pt", "TorchScript")):
        with pytest.raises(ModelError) as caught:
            load_model(saved[name], arch=saved.arch)
        assert str(caught.value) == f"{saved[name]}: holds its own architecture ({kind}); leave out --arch"


def test_a_pickled_module_needs_permission(saved):
    with pytest.raises(ModelError) as caught:
        load_model(saved["pickled.pt"], input_shapes=SHAPES)
    assert str(caught.value) == (
        f"{saved['pickled.pt']}: is a pickled Python object ('net_of_the_model_tests.Net'); loading it runs whatever "
        "code is in it; add --allow-pickle only if you trust where it comes from; better save it with "
        "torch.export.save (.pt2), or model.state_dict() for --arch"
    )


def test_a_pickled_module_whose_class_is_gone(saved, monkeypatch):
    monkeypatch.delitem(sys.modules, "net_of_the_model_tests")
    with pytest.raises(ModelError) as caught:
        load_model(saved["pickled.pt"], input_shapes=SHAPES, allow_pickle=True)
    assert str(caught.value) == (
        f"{saved['pickled.pt']}: cannot be unpickled: ModuleNotFoundError: No module named 'net_of_the_model_tests'; "
        "its class is in Python code that is not here: save model.state_dict() there and name it with --arch "
        "file.py:callable"
    )


def test_a_pickled_module_whose_class_lies_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "net_beside.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        torch.save(importlib.import_module("net_beside").Net(3, 2), tmp_path / "m.pt")
    monkeypatch.delitem(sys.modules, "net_beside")
    assert load_model(tmp_path / "m.pt", input_shapes=((3,),), allow_pickle=True).summary.parameters == 8


def test_a_pickled_module_whose_class_is_in_the_script_that_saved_it(tmp_path, monkeypatch):
    class Own(torch.nn.Module):
        pass

    Own.__module__, Own.__qualname__ = "__main__", "Own"
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "Own", Own, raising=False)
        torch.save(Own(), tmp_path / "m.pt")
    with pytest.raises(ModelError, match="its class is in the script that wrote it: save model"):
        load_model(tmp_path / "m.pt", input_shapes=((3,),), allow_pickle=True)


def test_a_pickled_something_else(tmp_path):
    import pickle

    (tmp_path / "m.pkl").write_bytes(pickle.dumps(dataclasses.field))
    with pytest.raises(ModelError, match=r"is a pickled 'builtins\.function', not a torch\.nn\.Module$"):
        load_model(tmp_path / "m.pkl", allow_pickle=True)


def test_a_pickled_module_inside_a_checkpoint(saved, tmp_path):
    torch.save({"epoch": 3, "model": torch.nn.DataParallel(saved.module)}, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", input_shapes=SHAPES, allow_pickle=True)
    torch.testing.assert_close(model.module(saved.x), saved.y)
    assert model.summary.format == "pickled module"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated(saved, tmp_path, name, part):
    content = saved[name].read_bytes()
    path = tmp_path / "m.pt"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelError) as caught:
        load_model(path, **options(saved, name))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_bytes_never_raise_anything_but_model_errors(saved, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "m.pt"
    for name in ("net.pt2", "state.pt", "legacy.pt", "net.safetensors", "net.onnx", "scripted.pt"):
        content = bytearray(saved[name].read_bytes())
        for _ in range(8):
            damaged = content.copy()
            for at in rng.integers(0, len(content), 3):
                damaged[at] ^= 1 << rng.integers(0, 8)
            path.write_bytes(damaged)
            with contextlib.suppress(ModelError, DataError):
                load_model(path, **options(saved, name))
