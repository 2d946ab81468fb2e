"""The command line: quick where it should be, one line and exit code 2 for every mistake."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from invented import invented_benchmark

from compressor import cli

HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "sklearn", "pandas", "scipy", "matplotlib")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run ``compress`` in this process and give its exit code."""
    monkeypatch.setattr(sys, "argv", ["compress", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["meters"], ["--version"], ["inspect", "--help"], ["bench", "--help"], ["compare", "--help"]],
)
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
        (["inspct", "{demo}"], "inspct: no such file or command; did you mean 'inspect'?"),
        (["{demo}", "--method", "int88"], "did you mean 'int8'?"),
        (["{demo}", "--meter", "rappl"], f"there is no meter 'rappl'; did you mean 'rapl'? known: {KNOWN_METERS}"),
        (["{demo}", "--data", "demo", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["{demo}", "--data", "fashion-mnits"], "did you mean 'fashion-mnist'?"),
        (["{demo}", "--metohd", "int8"], "there is no option --metohd; did you mean '--method'?"),
        (["{demo}", "--max-loss", "-1"], "--max-loss: must be a number of 0 or more, not -1"),
        (["{demo}", "--max-loss", "nan"], "--max-loss: must be a number of 0 or more, not nan"),
        (["{demo}", "--seed", "-1"], "--seed: must be from 0 to 4294967295, not -1"),
        (["{demo}", "--threads", "100000"], "--threads: must be at most 1024, not 100000"),
        (["{demo}", "--out", "."], ".: is no name for a new folder; name another folder with --out"),
        (["{demo}", "--method", "prune", "--by-rule"], "--by-rule: is about int8, not prune"),
        (
            ["{demo}", "--recipe", "cnn", "--method", "int8"],
            "--method: cannot be given with --recipe, which names prune, ",
        ),
        (["bench", "{demo}", "--max-loss", "-1"], "--max-loss: must be a number of 0 or more, not -1"),
        (["bench", "{demo}", "--threads", ""], "'' is not a number; give one or several such as 1,8,32"),
        (["{demo}", "--threads", "0"], "--threads: must be at least 1, not 0"),
        (["{demo}", "--batch", "0"], "--batch: must be at least 1, not 0"),
        (["{demo}", "--batch", "many"], "Invalid value for '--batch': 'many' is not a valid integer."),
        (["{demo}", "--input-shape", "1,28"], "'1,28' is not a shape such as 1x28x28 (without the batch axis)"),
        (["inspect", "nowhere.pt"], "nowhere.pt: no such file; check the path"),
        (["inspect"], "Missing argument 'MODEL'."),
        (["bench"], "Missing argument 'A B...'."),
        (["bench", "nowhere.onnx"], "nowhere.onnx: no such file; check the path"),
        (["bench", "."], ".: is a folder; name the model file in it"),
        (["bench", "{demo}", "--batch", "1,many"], "'many' is not a number; give one or several such as 1,8,32"),
        (["bench", "{demo}", "--threads", "0"], "--threads: must be at least 1, not 0"),
        (["bench", "{demo}", "--runtime", "onxruntime"], "no runtime 'onxruntime'; did you mean 'onnxruntime'?"),
        (["bench", "{demo}", "--out", "no/where.json"], "no/where.json: its folder does not exist; make the folder no"),
        (["bench", "{demo}", "--out", "."], ".: is a folder; name a file"),
        (["bench", "{demo}", "--meter", "rappl"], "there is no meter 'rappl'; did you mean 'rapl'?"),
        (["bench", "{demo}", "--metric", "accuracy"], "--metric: needs data; give --data"),
        (["compare", "a.json", "b.json"], "a.json: no such report"),
        (["compare", "a.json", "b.json", "--fail-unless", "bettr"], "'bettr' is not one of 'better', 'not-worse'."),
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
    assert list(tmp_path.iterdir()) == []


def test_meter_that_cannot_be_read_is_an_error_not_a_fall_back(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from compressor.meters import registry

    if registry.status("battery").usable:
        pytest.skip("not run: this machine has a battery to read")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, str(demo_model), "--meter", "battery") == 2
    assert capsys.readouterr().err.startswith("error: battery: ")


def test_terminal_that_knows_only_ascii_gets_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert call(monkeypatch, "recipes") == 0
    shown.seek(0)
    assert "prune ? distill ? int8" in shown.read()


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
    demo_model: Path, chain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", str(demo_model)) == 0
    out = capsys.readouterr().out
    assert "exported program" in out
    assert "308 074" in out
    assert "layers.2.shortcut.0" in out
    assert "up to 112 of 128 units may go: layers.2.conv1" in out
    assert call(monkeypatch, "inspect", str(chain), "--json") == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 2 * 64 * 64


def test_closed_pipe_is_not_a_traceback(chain: Path) -> None:
    command = f"{sys.executable} -m compressor inspect {chain} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("hurried")
def test_bench_prints_keeps_and_is_compared(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two measurements of one file; whatever they differ by at such windows, the file and the table are whole."""
    monkeypatch.chdir(tmp_path)
    demo = str(demo_model)

    def told(*arguments: str) -> tuple[int, str, str]:
        return call(monkeypatch, *arguments), *capsys.readouterr()

    code, out, err = told("bench", demo, demo, "--runtime", "torch,onnxruntime", "--quick", "--out", "a.json")
    assert (code, err) == (0, "")
    assert out.startswith("batch 1, 1 thread, per inference\n")
    assert "resnet8.pt2 on onnxruntime against resnet8.pt2" in out
    assert "estimated" in out
    assert out.endswith("Measurement  a.json\n")
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert os.listdir(tmp_path) == ["a.json"]

    from compressor import bench

    monkeypatch.setattr(bench, "run_benchmark", invented_benchmark)  # once is enough for the workers
    code, out, err = told("bench", demo, "--quick", "--out", "b.json", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "b.json").read_text())

    code, _, err = told("compare", "a.json", "b.json")
    assert code == 2
    assert "runtime.name (onnxruntime against torch)" in err
    assert err.count("\n") == 1

    code, out, err = told("compare", "a.json", "a.json", "--arm", "resnet8.pt2")
    assert (code, err) == (0, "")
    assert "Separate runs: their blocks are not paired" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80

    # A file against itself is never better.
    code, out, err = told("compare", "a.json", "a.json", "--fail-unless", "better", "--json")
    assert (code, err) == (1, "")
    gate = json.loads(out)["gate"]
    assert (gate["wish"], gate["met"]) == ("better", False)


def test_bench_interrupted_before_the_first_block(chain: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "compressor", "bench", str(chain), "--quick", "--out", str(tmp_path / "a.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Struck as soon as a worker is there: the first block takes seconds.
    import psutil

    parent = psutil.Process(process.pid)
    while not any("compressor.benchmark.worker" in child.cmdline() for child in parent.children()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted: no block was finished\n")
    assert list(tmp_path.iterdir()) == [chain]


def test_ctrl_c_in_code_made_from_a_string_has_the_same_exit_code(tmp_path: Path) -> None:
    (tmp_path / "struck.py").write_text(
        "from compressor import cli\n"
        "def strike(**options):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "cli.cli.main = strike\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-m", "struck"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_watching_meters_ends_well_with_ctrl_c(as_json: bool) -> None:
    command = [sys.executable, "-m", "compressor", "meters", "--watch", *(["--json"] if as_json else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    if as_json:
        powers = json.loads(line)["powers"]
        estimate = next(p for p in powers if p["domain"] == "cpu-time/cpu")
        assert estimate["provenance"] == "estimated"
    else:
        assert " W (estimated, all processes)" in line
