from __future__ import annotations

import onnx
import pytest
import torch

from compressor.errors import ModelError, UnsafeFileError
from compressor.model.describe import describe
from compressor.model.load import load_model

DATA = torch.arange(12.0).numpy().tobytes()


@pytest.fixture
def with_data(tmp_path, tiny_onnx):
    """A function that writes a model whose weights are at some location."""
    folder = tmp_path / "model"
    folder.mkdir()

    def make(location: str):
        (folder / "m.onnx").write_bytes(tiny_onnx(location).SerializeToString())
        return folder / "m.onnx"

    return make


def test_data_beside_it(with_data):
    path = with_data("m.onnx.data")
    (path.parent / "m.onnx.data").write_bytes(DATA)
    model = load_model(path)
    assert model.summary.size_bytes == path.stat().st_size + 48
    assert model.summary.parameters == 15
    other = model.summary.sha256
    (path.parent / "m.onnx.data").write_bytes(DATA[::-1])
    assert load_model(path).summary.sha256 != other


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "/etc/hostname", "..\\secret", ""])
def test_data_outside_its_folder(with_data, tmp_path, location):
    (tmp_path / "secret").write_bytes(DATA)
    path = with_data(location)
    for read in (load_model, describe):
        with pytest.raises(UnsafeFileError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: the data of 'w' are outside its folder ('{location}'); export it anew with its data beside it"
        )


def test_a_link_that_leads_outside(with_data, tmp_path):
    (tmp_path / "secret").write_bytes(DATA)
    path = with_data("inside")
    (path.parent / "inside").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError, match=r"the data of 'w' are outside its folder \('inside'\)"):
        load_model(path)


def test_data_that_are_missing_or_cut(with_data):
    path = with_data("m.data")
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: its weights are in 'm.data', which is missing; copy that file beside it"
    (path.parent / "m.data").write_bytes(DATA[:40])
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{path}: its weights in 'm.data' are truncated (40 bytes of at least 48); copy or download that file again"
    )


def test_data_of_a_tensor_inside_a_subgraph(tmp_path, tiny_onnx):
    """Not only initializers can point outside."""
    model = tiny_onnx()
    tensor = tiny_onnx("../secret").graph.initializer[0]
    constant = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    branch = onnx.helper.make_graph([constant], "branch", [], [onnx.helper.make_tensor_value_info("c", 1, [4, 3])])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFileError, match=r"the data of 'w' are outside its folder \('\.\./secret'\)"):
        load_model(tmp_path / "m.onnx")


def test_operators_of_a_custom_library(tmp_path, tiny_onnx):
    model = tiny_onnx()
    model.graph.node[1].domain = "evil.ops"
    model.opset_import.add(domain="evil.ops", version=1)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFileError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f"{path}: uses the operator 'Add' of the domain 'evil.ops', which needs a custom library; export it with "
        "ONNX's own operators"
    )


def test_a_model_against_the_rules(tmp_path, tiny_onnx):
    model = tiny_onnx()
    model.graph.node[1].input[0] = "nowhere"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx: breaks ONNX's rules: ValidationError: .*; export it anew$"):
        load_model(path)
