from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import RuntimeUnavailableError
from compressor.runtimes.registry import open_session

KNOWN = "onnxruntime, onnxruntime-tensorrt, openvino, openvino-bf16, torch, torch-compile"

ENDINGS = "give one that ends in .onnx, .pt2, .safetensors"


def test_importing_loads_no_runtime() -> None:
    code = (
        "import sys, compressor.runtimes.registry; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_file_format_chooses_the_runtime(chain: Path) -> None:
    assert open_session(chain).info.name == "onnxruntime"
    assert open_session(chain, "onnxruntime", threads=2).info.options["intra_op_num_threads"] == "2"


@pytest.mark.parametrize(
    ("name", "runtime", "threads", "message"),
    [
        ("m.onnx", "onnxruntim", 1, "no runtime 'onnxruntim'; did you mean 'onnxruntime'? known: " + KNOWN),
        ("m.onnx", "torch", 1, "{file}: torch does not open a '.onnx' file; use onnxruntime for it"),
        ("m.onnx", None, 0, "cannot run on 0 threads; give at least 1"),
        ("m.onnx", None, 1, "{file}: ONNX Runtime cannot load it: "),
        ("m.pt2", None, 1, "{file}: torch cannot load it: "),
        (
            "m.tflite",
            None,
            1,
            "{file}: no runtime opens a '.tflite' file; give one that ends in .onnx, .pt2, .safetensors",
        ),
        ("gone/m.onnx", None, 1, "{file}: no such file; check the path"),
    ],
)
def test_errors(tmp_path: Path, name: str, runtime: str | None, threads: int, message: str) -> None:
    file = tmp_path / name
    if file.parent.is_dir():
        file.write_bytes(b"not a model")
    with pytest.raises(RuntimeUnavailableError) as caught:
        open_session(file, runtime, threads=threads)
    text = message.format(file=file)
    assert str(caught.value).startswith(text) if text.endswith(": ") else str(caught.value) == text
    assert "\n" not in str(caught.value)
