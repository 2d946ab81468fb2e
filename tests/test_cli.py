"""The command line: quick where it should be, one line and exit code 2 for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressor import cli

HEAVY = ("torch", "onnx", "onnxruntime", "sklearn", "pandas", "scipy", "matplotlib")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run ``compress`` in this process and give its exit code."""
    monkeypatch.setattr(sys, "argv", ["compress", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("arguments", [["--help"], ["meters"], ["--version"], ["inspect", "--help"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, runpy, contextlib\n"
        "sys.argv = ['compress', *sys.argv[1:]]\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('compressor', run_name='__main__')\n"
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_shows_the_main_job_and_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert "compress [OPTIONS] MODEL" in out
    assert "--method NAME" in out
    assert "demo" in out
    assert max(map(len, out.splitlines())) <= 100


def test_no_arguments_show_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    call(monkeypatch)
    assert "compress [OPTIONS] MODEL" in capsys.readouterr().out


KNOWN_METERS = "battery, cpu-time, exec, hwmon, log, nvml, pyrapl, rapl, replay"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "nowhere.pt: no such file; check the path"),
        (["metres"], "metres: no such file or command; did you mean 'meters'?"),
        (["{demo}", "--method", "int88"], "did you mean 'int8'?"),
        (["{demo}", "--meter", "rappl"], f"there is no meter 'rappl'; did you mean 'rapl'? known: {KNOWN_METERS}"),
        (["{demo}", "--data", "demo", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["{demo}", "--data", "fashion-mnits"], "did you mean 'fashion-mnist'?"),
        (["{demo}", "--metohd", "int8"], "there is no option --metohd; did you mean '--method'?"),
        (["{demo}", "--max-loss", "-1"], "--max-loss: must be 0 or more, not -1"),
        (["{demo}", "--threads", "0"], "--threads: must be at least 1, not 0"),
        (["{demo}", "--batch", "0"], "--batch: must be at least 1, not 0"),
        (["{demo}", "--batch", "many"], "Invalid value for '--batch': 'many' is not a valid integer."),
        (["{demo}", "--input-shape", "1,28"], "'1,28' is not a shape such as 1x28x28 (without the batch axis)"),
        (["inspect", "nowhere.pt"], "nowhere.pt: no such file; check the path"),
        (["inspect"], "Missing argument 'MODEL'."),
    ],
)
def test_mistake_is_one_line_with_exit_code_2_and_leaves_nothing(
    arguments: list[str],
    message: str,
    demo_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *(a.replace("{demo}", str(demo_model)) for a in arguments)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left == []


def test_meter_that_cannot_be_read_is_an_error_not_a_fall_back(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compressor.meters import registry

    if registry.status("battery").usable:
        pytest.skip("not run: this machine has a battery to read")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, str(demo_model), "--meter", "battery") == 2
    assert capsys.readouterr().err.startswith("error: battery: ")


def test_meters_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "meters", "--json") == 0
    found = {status["name"]: status for status in json.loads(capsys.readouterr().out)}
    assert found["cpu-time"]["info"]["provenance"] == "estimated"
    assert all(status["usable"] or status["why"] for status in found.values())


def test_meters_fit_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "meters") == 0
    out = capsys.readouterr().out
    assert "cpu-time" in out
    assert "estimated" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("  ")) <= 80


def test_inspect_prints_what_the_file_is(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", str(demo_model)) == 0
    out = capsys.readouterr().out
    assert "exported program" in out
    assert "308 074" in out
    assert "layers.2.shortcut.0" in out
    assert call(monkeypatch, "inspect", str(demo_model), "--json") == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 308074


def test_closed_pipe_is_not_a_traceback(demo_model: Path) -> None:
    command = f"{sys.executable} -m compressor inspect {demo_model} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
