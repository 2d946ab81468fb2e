"""What every method that turns an ONNX file into another must keep to."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compressor import onnx_file
from compressor.errors import MethodError
from compressor.model.base import Arrays
from compressor.passes.base import Context
from compressor.passes.registry import make_pass, method_names, works_on_torch, writes_torch_file
from compressor.runtimes.registry import open_session

Zoo = Callable[..., tuple[Path, Arrays]]
OnVnni = Callable[[Arrays], Context]

METHODS = [name for name in method_names() if not (works_on_torch(name) or writes_torch_file(name))]


@pytest.mark.parametrize("name", METHODS)
def test_source_is_only_read_and_one_file_is_written(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo("patches")
    kept = tuple(x.copy() for x in inputs)
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    step = make_pass(name).apply(source, tmp_path / "out.onnx", vnni(inputs))
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert all(np.array_equal(a, b) for a, b in zip(inputs, kept, strict=True))
    assert [x.name for x in tmp_path.iterdir()] == ["out.onnx"]
    assert step.method == name
    assert step.notes
    session, original = open_session(tmp_path / "out.onnx"), open_session(source)
    assert (session.inputs, session.outputs) == (original.inputs, original.outputs)
    assert np.isfinite(session.predict(inputs)).all()


@pytest.mark.parametrize("name", METHODS)
def test_failure_leaves_nothing(vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source = tmp_path / "x.onnx"
    source.write_bytes(b"text")
    with pytest.raises(MethodError):
        make_pass(name).apply(source, tmp_path / "out.onnx", vnni((np.ones((1, 1), np.float32),)))
    assert [x.name for x in tmp_path.iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("name", [name for name in METHODS if name in ("int8-static", "smoothquant")])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x * 0,
            "calibration input 'in0': is 0 everywhere, so no range can be learnt; "
            "give examples such as the model will see in use",
        ),
        (lambda x: x * np.nan, "calibration input 'in0': holds NaN or infinity; remove those examples"),
        (lambda x: x[:0], "there are no calibration examples; give data, with some left for calibration"),
    ],
    ids=["zero", "nan", "none"],
)
def test_calibration_that_cannot_serve(
    zoo: Zoo,
    vnni: OnVnni,
    tmp_path: Path,
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
) -> None:
    source, inputs = zoo("patches")
    with pytest.raises(MethodError) as caught:
        make_pass(name).apply(source, tmp_path / "a.onnx", vnni((change(inputs[0]),)))
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", METHODS)
def test_compressing_twice_is_refused(zoo: Zoo, vnni: OnVnni, tmp_path: Path, name: str) -> None:
    source, inputs = zoo("patches")
    first = make_pass("int8-dynamic" if name != "fp16" else "fp16")
    first.apply(source, tmp_path / "a.onnx", vnni(inputs))
    with pytest.raises(MethodError, match="already"):
        make_pass(name).apply(tmp_path / "a.onnx", tmp_path / "b.onnx", vnni(inputs))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("writes", [0, 1])
def test_full_disk_is_told_as_such_and_leaves_nothing(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, writes: int
) -> None:
    """The disk is full at the first file that a method writes, or at the last; whoever opened the folder tells it."""
    source, inputs = zoo("patches")
    write, done = onnx_file._write, []

    def full(proto: object, path: Path, **options: object) -> None:
        done.append(path)
        if len(done) > writes or path.name == "out.onnx":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(proto, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_file, "_write", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        make_pass(name).apply(source, tmp_path / "out.onnx", vnni(inputs))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer")])
def test_memory_that_runs_out_is_one_line(
    zoo: Zoo, vnni: OnVnni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    source, inputs = zoo("patches")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(onnx_file, "_write", fail)
    with pytest.raises(MethodError) as caught:
        make_pass(name).apply(source, tmp_path / "out.onnx", vnni(inputs))
    assert str(caught.value) == (
        f"{source}: ran out of memory; it takes up to twice the model's size; close other programs"
    )
    assert list(tmp_path.iterdir()) == []
