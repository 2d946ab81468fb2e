from __future__ import annotations

import subprocess
import sys

import pytest

from compressor.errors import MethodError
from compressor.passes.registry import make_pass, method_names


def test_importing_loads_no_library() -> None:
    code = (
        "import sys, compressor.passes.registry as r; r.make_pass('int8');"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_method_can_be_made() -> None:
    assert "int8" in method_names()
    assert [make_pass(name).name for name in method_names()] == list(method_names())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("int9", {}, "no method 'int9'; did you mean 'int8'? known: int8"),
        ("int8", {"mod": "auto"}, "int8: has no setting 'mod'; did you mean 'mode'? known: mode"),
        ("int8", {"mode": "statik"}, "int8: has no mode 'statik'; did you mean 'static'? known: auto, dynamic, static"),
    ],
)
def test_errors(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        make_pass(name, **settings)
    assert str(caught.value) == message
