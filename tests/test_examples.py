"""The examples run as they stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from invented import invented_benchmark

from compressor.pipeline import deliver, line

ROOT = Path(__file__).parents[1]


def test_python_api_in_ten_lines(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark and the plots left out, which other tests have."""
    with np.load(ROOT / "compressor" / "demo" / "data.npz") as data:
        np.savez(tmp_path / "data.npz", **{key: data[key][:200] for key in data.files})
    monkeypatch.setattr(line, "run_benchmark", invented_benchmark)
    monkeypatch.setattr(deliver, "render_html", lambda report: report.headline)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["api.py", str(demo_model), "data.npz"])
    runpy.run_path(str(ROOT / "examples" / "api.py"), run_name="__main__")
    assert "CPU time per inference" in capsys.readouterr().out
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
