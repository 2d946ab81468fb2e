"""``compress history`` and the recording of runs: one line for every mistake, and no run lost to its history."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from compressor import cli
from compressor.cli.history import _KEYS
from compressor.history.database import SORTS, open_history
from compressor.history.exchange import record_run


@pytest.fixture(scope="module")
def fictional():
    source = Path(__file__).parents[1] / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fictional_reports_of_cli_history", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def filled(fictional, tmp_path_factory):
    place = tmp_path_factory.mktemp("history") / "history.db"
    for report in (fictional.measured(), fictional.synthetic()):
        record_run(report, None, str(place))
    return place


@pytest.fixture
def call(monkeypatch, capsys):
    """Run ``compress`` in this process; gives its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def test_the_help_names_every_key_of_the_list():
    assert set(_KEYS) == set(SORTS)


def test_the_list_loads_nothing_heavy(filled):
    script = (
        "import sys, runpy, contextlib\n"
        "sys.argv = ['compress', *sys.argv[1:]]\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('compressor', run_name='__main__')\n"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'sklearn', 'pandas', 'scipy', 'matplotlib', 'pydantic', 'jinja2')\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "history", "--history", str(filled)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "LOADED []"
    assert lines[0].split() == ["ID", "model,", "method", "task", "score", "inference", "spent", "CO₂e"]


def test_list_json_and_filters(call, filled):
    code, out, _ = call("history", "--history", filled, "--json", "--task", "synthetic")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry["run"]["task"] == "synthetic"
    assert entry["arm"]["energy_j"]["ci95"][0] < entry["arm"]["energy_j"]["value"]
    assert entry["before"]["arm"] == "ONNX fp32"
    _, out, _ = call("history", "--history", filled, "--limit", "1")
    assert "… and 1 more: --limit 0 shows all" in out
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = call("history", "--history", filled, "--min-score", "0.99")
    assert out == "No model scores 0.99 or better.\n"


def test_show_remove_export_import(call, filled, tmp_path):
    code, out, _ = call("history", "export", tmp_path / "all.jsonl", "--history", filled)
    assert (code, out) == (0, f"exported 2 runs to {tmp_path / 'all.jsonl'}\n")
    other = tmp_path / "other.db"
    code, out, _ = call("history", "--history", other, "import", tmp_path / "all.jsonl", tmp_path / "all.jsonl")
    assert code == 0
    assert out.splitlines() == [
        f"{tmp_path / 'all.jsonl'}: added 2 runs, 0 already there",
        f"{tmp_path / 'all.jsonl'}: added 0 runs, 2 already there",
    ]
    with open_history(other) as history:
        digest = history.entries(task="synthetic")[0].run.digest
    code, out, _ = call("history", "show", digest[:7], "--history", other)
    assert code == 0
    assert "energy was not\nmeasured here; agreement on synthetic" in out
    assert f"Run               {digest[:12]}, 2030-01-02T03:04:05Z" in out
    code, out, _ = call("history", "show", digest[:7], "--history", other, "--json")
    assert json.loads(out)["task"]["name"] == "synthetic"
    code, out, _ = call("history", "remove", digest, "--history", other)
    assert (code, out) == (0, f"removed {digest[:12]}: resnet8, synthetic, 2030-01-02T03:04:05Z\n")
    with open_history(other) as history:
        assert history.count() == 1


def test_the_overview_page(call, filled, tmp_path):
    page = tmp_path / "page.html"
    code, out, _ = call("history", "--history", filled, "--html", page, "--min-score", "0.9")
    assert (code, out) == (0, f"Overview  {page}\n")
    said = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "Cheapest with accuracy of at least 90.0 %: resnet8 · ONNX int8" in said


def test_no_run_yet_is_no_mistake(call, monkeypatch, tmp_path):
    from compressor.history import file as history_file

    monkeypatch.delenv("COMPRESSOR_HISTORY")
    monkeypatch.setattr(history_file, "default_place", lambda: tmp_path / "history.db")
    code, out, _ = call("history")
    assert (code, out) == (0, f"No run is recorded yet; {tmp_path / 'history.db'} is written by the first one.\n")
    assert call("history", "--json")[1] == "[]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "none.db"], "none.db: no such history; check the path"),
        (["--history", "."], ".: is a folder; name a file"),
        ([], "COMPRESSOR_HISTORY: the history is switched off; name a file with --history"),
        (["--history", "off"], "--history: the history is switched off; name a file with --history"),
        (
            ["--history", "{filled}", "--sort", "enery"],
            "--sort: there is no 'enery' to sort by; did you mean 'energy'?",
        ),
        (["--history", "{filled}", "--limit", "-1"], "--limit: must be 0 or more, not -1"),
        (["--history", "{filled}", "--min-score", "nan"], "--min-score: must be a number, not nan"),
        (["--history", "{filled}", "--task", "x"], "--task: no run of task 'x'; known: fashion-mnist"),
        (["--history", "{filled}", "--html", "no/page.html"], "no/page.html: its folder does not exist"),
        (["--history", "{filled}", "show", "zzzz"], "'zzzz' is no run; give the ID that 'compress history' shows"),
        (["--history", "{filled}", "remove", "0000"], ": no run '0000'; 'compress history' shows the IDs"),
        (["--history", "none.db", "remove", "0000"], "none.db: no such history; check the path"),
        (["--history", "{filled}", "import", "none.jsonl"], "none.jsonl: no such file; check the path"),
        (["--history", "{filled}", "export", "."], ".: is a folder; name a file"),
        (["lst"], "No such command 'lst'"),
    ],
)
def test_mistakes_are_one_line(call, filled, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("history", *(a.replace("{filled}", str(filled)) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


# --- recording -----------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(fictional, monkeypatch, tmp_path):
    """A pipeline that has its report at once: what is tested is what the command line does with it."""
    report, folder = fictional.measured(), tmp_path / "run"
    folder.mkdir()
    outcome = SimpleNamespace(report=report, folder=folder, interrupted=False)
    monkeypatch.setattr("compressor.pipeline.run", lambda *_: outcome)
    return folder


def test_a_run_is_recorded_and_says_how_to_find_it(call, finished, tmp_path):
    place = tmp_path / "history.db"
    code, out, err = call("demo", "--history", place)
    assert (code, err) == (0, "")
    with open_history(place) as history:
        (entry,) = history.entries()
    assert entry.run.folder == str(finished)
    shown = entry.run.digest[:7]
    assert out.splitlines()[-1] == f"History           {shown}  (compress history show {shown})"


def test_the_variable_names_the_history(call, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_HISTORY", str(tmp_path / "mine.db"))
    assert call("demo")[0] == 0
    with open_history(tmp_path / "mine.db") as history:
        assert history.count() == 1


def test_switched_off_nothing_is_said(call, finished, tmp_path):
    code, out, err = call("demo", "--history", "off")
    assert (code, err) == (0, "")
    assert "History" not in out


def test_a_history_that_cannot_be_written_is_loud_and_the_run_succeeds(call, finished, tmp_path):
    broken = tmp_path / "history.db"
    broken.write_text("a diary" * 500)
    code, out, err = call("demo", "--history", broken)
    assert code == 0
    assert "91.9 %" in out
    assert err == (
        f"NOT RECORDED in the history: {broken}: is not a history, or is damaged; move it away and a new one is begun; "
        f"'compress history import' brings back what was exported; add it later with: compress history import "
        f"{finished / 'report.json'}\n"
    )
    assert broken.read_text() == "a diary" * 500


def test_mlflow_that_is_missing_is_told_before_the_run(call, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    code, _, err = call("demo", "--mlflow")
    assert code == 2
    assert err == "error: --mlflow: MLflow is not installed; pip install 'compressor[mlflow]'\n"
