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
        ("int9", {}, f"no method 'int9'; did you mean 'int8'? known: {', '.join(method_names())}"),
        (
            "int8",
            {"by_rul": True},
            "int8: has no setting 'by_rul'; did you mean 'by_rule'? known: by_rule, max_error, rules",
        ),
        (
            "int8-static",
            {"calibration": "entropie"},
            "int8-static: has no calibration 'entropie'; did you mean 'entropy'? known: entropy, minmax, percentile",
        ),
        (
            "int8-static",
            {"percentile": 101},
            "int8-static: percentile must be above 50 and at most 100, not 101; the nearest that goes is 100",
        ),
        (
            "int8-static",
            {"percentile": 0.999},
            "int8-static: percentile must be above 50 and at most 100, not 0.999; the nearest that goes is 50.01",
        ),
        ("int8", {"max_error": -1}, "int8: max_error must be above 0, not -1; 0.01 is 1 % of the output"),
        (
            "int8-static",
            {"max_error": float("nan")},
            "int8-static: max_error must be above 0, not nan; 0.01 is 1 % of the output",
        ),
    ],
)
def test_errors(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError) as caught:
        make_pass(name, **settings)
    assert str(caught.value) == message
