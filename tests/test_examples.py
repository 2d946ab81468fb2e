"""The examples run as they stand, with shorter windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def test_python_api_in_ten_lines(demo_model: Path, tmp_path: Path) -> None:
    with np.load(ROOT / "compressor" / "demo" / "data.npz") as data:
        np.savez(tmp_path / "data.npz", **{key: data[key][:200] for key in data.files})
    # The example itself, in an interpreter that has hurried first.
    script = "import runpy, sys, fast; fast.hurry(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "examples" / "api.py"), str(demo_model), "data.npz"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CPU time per inference" in done.stdout
    assert (tmp_path / "compressed" / "resnet8-int8" / "report.html").is_file()


def test_architectures_have_the_parameters_they_say() -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    from mobilenet import mobilenet_v2
    from resnet import resnet8, resnet18

    def millions(model: object) -> float:
        return sum(p.numel() for p in model.parameters()) / 1e6  # type: ignore[attr-defined]

    assert round(millions(resnet8()), 2) == 0.31
    assert round(millions(resnet18()), 1) == 11.2
    assert round(millions(mobilenet_v2()), 1) == 3.5
