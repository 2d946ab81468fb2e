from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.model.base import safe_name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet18.pt2", "resnet18"),
        ("my model (final).pt", "my-model-final"),
        ("модель.pt", "model"),
        (".hidden.pt", "hidden"),
        ("a" * 300 + ".pt", "a" * 64),
        ("..pt", "model"),
        ("con.pt", "model-con"),
        ("a/b c.onnx", "b-c"),
        ("v1.2_best-3.pth", "v1.2_best-3"),
    ],
)
def test_names(file, name):
    assert safe_name(Path(file)) == name


@given(st.text(alphabet=st.characters(exclude_characters="/\0"), min_size=1))
def test_any_file_name_gives_a_safe_folder_name(text):
    name = safe_name(Path(text))
    assert 1 <= len(name) <= 70
    assert name.isascii()
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0] not in ".-"


def test_importing_the_package_is_light():
    code = (
        "import sys, compressor.model, compressor.model.base, compressor.model.load, compressor.model.describe\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
