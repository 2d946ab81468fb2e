from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.load import load_model

SHAPES = ((2, 8, 8),)
CALLABLE = "name the architecture with --arch package.module:callable or --arch file.py:callable"


def load(saved, path):
    model = load_model(path, arch=saved.arch, input_shapes=SHAPES)
    torch.testing.assert_close(model.module(saved.x), saved.y)
    return model


def test_without_an_architecture(saved):
    for name, kind, first in (("state.pt", "state dict", "stem.weight"), ("legacy.pt", "state dict", "stem.weight")):
        with pytest.raises(ModelError) as caught:
            load_model(saved[name])
        assert str(caught.value) == (
            f"{saved[name]}: holds weights without their model ({kind}, 10 tensors, e.g. '{first}'); {CALLABLE}"
        )
    with pytest.raises(
        ModelError, match=r"without their model \(safetensors, 10 tensors, e\.g\. '[\w.]+'\); name the arch"
    ):
        load_model(saved["net.safetensors"])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_checkpoints(saved, tmp_path, key):
    torch.save({key: saved.module.state_dict(), "epoch": 7, "optimizer": {"lr": 0.1}}, tmp_path / "m.pt")
    model = load(saved, tmp_path / "m.pt")
    assert model.steps[0].method == "load"
    assert model.steps[0].notes == (f"The state dict was found under '{key}'; left aside: epoch, optimizer.",)


def test_prefixes_of_wrappers(saved, tmp_path):
    wrapped = torch.nn.DataParallel(saved.module)
    torch.save(wrapped.state_dict(), tmp_path / "m.pt")
    model = load(saved, tmp_path / "m.pt")
    assert model.steps[0].notes == ("The prefix 'module.' of torch.nn.DataParallel was taken off 10 names.",)
    save_file({f"_orig_mod.{k}": v for k, v in saved.module.state_dict().items()}, tmp_path / "m.safetensors")
    model = load(saved, tmp_path / "m.safetensors")
    assert model.steps[0].notes == ("The prefix '_orig_mod.' of torch.compile was taken off 10 names.",)


def test_nothing_peeled_off_leaves_no_note(saved):
    assert load(saved, saved["state.pt"]).steps == ()


def test_weights_that_do_not_fit(saved, tmp_path):
    state = saved.module.state_dict()
    for name in ("stem.weight", "bn.weight", "bn.bias", "conv.weight"):
        state[f"old.{name}"] = state.pop(name)
    state["head.weight"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "m.pt", arch=saved.arch, input_shapes=SHAPES)
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt'}: its weights do not fit {saved.arch} (4 missing: stem.weight, bn.weight, bn.bias, …; "
        "4 unexpected: old.stem.weight, old.bn.weight, old.bn.bias, …; 1 of another shape: head.weight is (5, 4) in "
        "the file, (3, 4) in the architecture); name the architecture that they were trained in"
    )


def test_counters_of_old_batch_norms_may_be_missing(saved, tmp_path):
    state = saved.module.state_dict()
    del state["bn.num_batches_tracked"]
    torch.save(dict(state), tmp_path / "m.pt")
    model = load(saved, tmp_path / "m.pt")
    assert model.steps[0].notes == ("bn.num_batches_tracked was not in the file and stays as it was built.",)


def test_tied_weights_may_be_saved_once(tmp_path):
    (tmp_path / "tied.py").write_text(
        "import torch\nclass Tied(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = torch.nn.Linear(4, 4)\n        self.b = torch.nn.Linear(4, 4)\n"
        "        self.b.weight = self.a.weight\n    def forward(self, x):\n        return self.b(self.a(x))\n"
    )
    state = {"a.weight": torch.eye(4), "a.bias": torch.zeros(4), "b.bias": torch.ones(4)}
    save_file(state, tmp_path / "m.safetensors")
    model = load_model(tmp_path / "m.safetensors", arch=f"{tmp_path}/tied.py:Tied", input_shapes=((4,),))
    torch.testing.assert_close(model.module(torch.zeros(2, 4)), torch.ones(2, 4))


def test_half_precision_weights_are_noted(saved, tmp_path):
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in saved.module.state_dict().items()}, tmp_path / "m.pt"
    )
    model = load_model(tmp_path / "m.pt", arch=saved.arch, input_shapes=SHAPES)
    assert model.steps[0].notes == ("Weights of torch.float16 in the file became torch.float32.",)


def test_numpy_in_a_checkpoint(saved, tmp_path):
    torch.save({"state_dict": saved.module.state_dict(), "loss": np.float64(0.1)}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError) as caught:
        load_model(tmp_path / "m.pt", arch=saved.arch, input_shapes=SHAPES)
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt'}: holds 'numpy._core.multiarray.scalar', which is no tensor and could run code when it is "
        "loaded; where it was made, save model.state_dict() alone; or add --allow-pickle if you trust where it comes "
        "from"
    )
    model = load_model(tmp_path / "m.pt", arch=saved.arch, input_shapes=SHAPES, allow_pickle=True)
    torch.testing.assert_close(model.module(saved.x), saved.y)


def test_a_dict_without_tensors(saved, tmp_path):
    torch.save({"lr": 0.1, "epoch": 3}, tmp_path / "m.pt")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "m.pt", arch=saved.arch)
    assert str(caught.value) == (
        f"{tmp_path / 'm.pt'}: holds a dict without tensors (its keys: 'lr', 'epoch'); a state dict must be at the top "
        "or under one of state_dict, model_state_dict, model"
    )


def test_an_empty_safetensors_file(tmp_path):
    save_file({}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"is a safetensors file without tensors$"):
        load_model(tmp_path / "m.safetensors")


def test_the_file_may_go_once_the_model_is_loaded(saved, tmp_path):
    """Weights are copied out of the mapped file, so that changing the file later does not change the model."""
    for name, arch in (("state.pt", saved.arch), ("net.safetensors", saved.arch), ("net.pt2", None)):
        path = tmp_path / name
        path.write_bytes(saved[name].read_bytes())
        model = load_model(path, arch=arch, input_shapes=SHAPES)
        path.write_bytes(bytes(path.stat().st_size))
        torch.testing.assert_close(model.module(saved.x), saved.y)
