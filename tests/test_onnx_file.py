from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compressor import onnx_file, onnx_wire
from compressor.errors import ModelError, UnsafeFileError
from compressor.onnx_file import (
    copy_onnx,
    external_files,
    load_outline,
    save_draft,
    save_onnx,
    staged,
    weight_bytes,
)
from compressor.onnx_wire import array_of


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    def write() -> None:
        with staged(tmp_path / "m.onnx") as path:
            path.write_bytes(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_copy_takes_the_weights_along(tmp_path: Path, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", 1000)
    save_onnx(onnx.load(chain), tmp_path / "split.onnx")
    assert external_files(tmp_path / "split.onnx") == (tmp_path / "split.onnx.data",)
    assert external_files(chain) == ()
    (tmp_path / "copy").mkdir()
    copy_onnx(tmp_path / "split.onnx", tmp_path / "copy" / "model.onnx")
    assert sorted(x.name for x in (tmp_path / "copy").iterdir()) == ["model.onnx", "model.onnx.data"]
    weights = [onnx.load(path).graph.initializer for path in (chain, tmp_path / "copy" / "model.onnx")]
    assert [x.raw_data for x in weights[0]] == [x.raw_data for x in weights[1]]


@pytest.mark.parametrize("location", ["../w", "/etc/hostname", "a/../../w"])
def test_weights_outside_the_folder(tmp_path: Path, chain: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "w").write_bytes(b"\0" * 16384)
    proto = onnx.load(chain)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    source = tmp_path / "inside" / "m.onnx"
    source.write_bytes(proto.SerializeToString())
    with pytest.raises(UnsafeFileError) as caught:
        copy_onnx(source, tmp_path / "copy.onnx")
    assert str(caught.value) == f"{source}: its weights are outside its folder, in {location}"
    assert not (tmp_path / "copy.onnx").exists()


def test_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"text")
    with pytest.raises(ModelError, match=r"x\.onnx: not an ONNX file: .*; give a file that ONNX wrote$"):
        external_files(tmp_path / "x.onnx")


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def mixed(path: Path) -> onnx.ModelProto:
    """A model whose weights are held in every way there is."""
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(5), "small"))
    proto.graph.initializer.append(onnx.helper.make_tensor("none", onnx.TensorProto.FLOAT, [0], []))
    proto.metadata_props.add(key="a", value="b")
    return proto


@pytest.mark.parametrize("limit", [10**9, 1000], ids=["one file", "two files"])
def test_written_piece_by_piece_it_is_the_same_model(
    tmp_path: Path, chain: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT_BYTES", limit)
    monkeypatch.setattr(onnx_wire, "PIECE_BYTES", 1000)
    proto = mixed(chain)
    before = proto.SerializeToString(deterministic=True)
    save_onnx(proto, tmp_path / "a.onnx")
    assert proto.SerializeToString(deterministic=True) == before
    assert (tmp_path / "a.onnx.data").exists() == (limit == 1000)
    save_onnx(load_outline(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    for name in ("a.onnx", "b.onnx"):
        read = onnx.load(tmp_path / name)
        onnx.checker.check_model(tmp_path / name)
        for tensor in read.graph.initializer:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        assert read.SerializeToString(deterministic=True) == before


def test_outline_leaves_the_weights_in_their_file(tmp_path: Path, chain: Path) -> None:
    save_draft(onnx.load(chain), tmp_path / "a.onnx")
    outline = load_outline(tmp_path / "a.onnx")
    assert weight_bytes(outline) == weight_bytes(onnx.load(chain)) == 2 * 64 * 64 * 4
    assert outline.ByteSize() < 1500
    expected = arrays(chain)
    assert all(np.array_equal(array_of(tensor), expected[tensor.name]) for tensor in outline.graph.initializer)


def test_drafts_in_one_folder_share_their_weights(tmp_path: Path, chain: Path) -> None:
    save_draft(onnx.load(chain), tmp_path / "a.onnx")
    outline = load_outline(tmp_path / "a.onnx")
    changed = outline.graph.initializer[1]
    changed.CopyFrom(onnx.numpy_helper.from_array(-array_of(changed), changed.name))
    save_draft(outline, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").stat().st_size < 2000
    assert (tmp_path / "b.onnx.data").stat().st_size == 64 * 64 * 4
    assert [x.name for x in external_files(tmp_path / "b.onnx")] == ["a.onnx.data", "b.onnx.data"]
    first, second = arrays(tmp_path / "a.onnx"), arrays(tmp_path / "b.onnx")
    assert np.array_equal(first["w0"], second["w0"])
    assert np.array_equal(first["w1"], -second["w1"])
    (tmp_path / "else").mkdir()
    save_draft(outline, tmp_path / "else" / "c.onnx")
    assert [x.name for x in external_files(tmp_path / "else" / "c.onnx")] == ["c.onnx.data"]
    assert np.array_equal(arrays(tmp_path / "else" / "c.onnx")["w0"], first["w0"])


def test_weights_of_branches_are_read(tmp_path: Path, chain: Path) -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.zeros(600), "t"))],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.DOUBLE, [600])],
        [onnx.numpy_helper.from_array(np.ones(600, np.float32), "inner")],
    )
    proto = onnx.load(chain)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("which", onnx.TensorProto.BOOL, []))
    proto.graph.node.append(onnx.helper.make_node("If", ["which"], ["z"], then_branch=inner, else_branch=inner))
    onnx.save_model(
        proto, tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0, convert_attribute=True
    )
    save_onnx(load_outline(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert external_files(tmp_path / "b.onnx") == ()
    branch = onnx.load(tmp_path / "b.onnx").graph.node[-1].attribute[0].g
    assert np.array_equal(onnx.numpy_helper.to_array(branch.initializer[0]), np.ones(600))
    assert np.array_equal(onnx.numpy_helper.to_array(branch.node[0].attribute[0].t), np.zeros(600))


def test_weights_that_end_too_early(tmp_path: Path, chain: Path) -> None:
    save_draft(onnx.load(chain), tmp_path / "a.onnx")
    data = tmp_path / "a.onnx.data"
    data.write_bytes(data.read_bytes()[:-100])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError) as caught:
        copy_onnx(tmp_path / "a.onnx", tmp_path / "out" / "b.onnx")
    assert str(caught.value) == f"{data.resolve()}: weight 'w1' ends 100 bytes too early; copy it anew"
    assert list((tmp_path / "out").iterdir()) == []


def test_outline_leaves_the_weights_inside_the_file_too(tmp_path: Path, chain: Path) -> None:
    proto = mixed(chain)
    save_onnx(proto, tmp_path / "a.onnx")
    outline = load_outline(tmp_path / "a.onnx")
    assert outline.ByteSize() < 2000
    assert weight_bytes(outline) == weight_bytes(proto)
    expected = arrays(tmp_path / "a.onnx")
    assert all(np.array_equal(array_of(tensor), expected[tensor.name]) for tensor in outline.graph.initializer)
    assert external_files(tmp_path / "a.onnx") == ()
    assert outline.metadata_props == proto.metadata_props
    assert outline.graph.node == proto.graph.node


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 5000, 20000])
def test_file_that_ends_too_early_is_refused_as_the_library_does(tmp_path: Path, chain: Path, cut: int) -> None:
    (tmp_path / "a.onnx").write_bytes(chain.read_bytes()[:cut])
    try:
        expected = onnx.load(tmp_path / "a.onnx").SerializeToString()
    except Exception:
        with pytest.raises(ModelError, match="not an ONNX file"):
            external_files(tmp_path / "a.onnx")
    else:
        assert load_outline(tmp_path / "a.onnx").SerializeToString() == expected
