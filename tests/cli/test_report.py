"""``compress report`` on a run's JSON alone (fictional data)."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from compressor.cli.report import report
from compressor.errors import CompressorError
from compressor.report import pdf
from compressor.results import Usage
from compressor.store.records import dump_report, load_report


@pytest.fixture(scope="module")
def fictional():
    spec = importlib.util.spec_from_file_location(
        "fictional_for_cli", Path(__file__).parents[1] / "report" / "conftest.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(fictional, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(dump_report(fictional.build((fictional.RAPL,))))
    return folder


def call(*args):
    return CliRunner().invoke(report, [str(arg) for arg in args])


def refused(*args):
    result = call(*args)
    assert isinstance(result.exception, CompressorError), result.output
    return str(result.exception)


def test_without_a_format_the_summary_is_printed_and_nothing_written(run):
    result = call(run)
    assert result.exit_code == 0
    assert "energy per inference than ONNX fp32" in " ".join(result.output.split())
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert [file.name for file in run.iterdir()] == ["report.json"]


def test_formats_are_written_beside_the_json_or_elsewhere(run, tmp_path):
    result = call(run, "--format", "md,txt,card,csv,sci,annex")
    assert result.exit_code == 0
    names = {"report.json", "report.md", "report.txt", "README.md", "arms.csv", "sci.json", "annex-xi.md"}
    assert {file.name for file in run.iterdir()} == names
    other = tmp_path / "deep" / "other"
    assert call(run / "report.json", "--format", "csv", "--out", other).exit_code == 0
    assert (other / "arms.csv").read_text() == (run / "arms.csv").read_text()


def test_use_is_recorded_with_json_and_kept_for_later(run):
    args = ("--country", "deu", "--pue", 1.2, "--uses", 1000, "--training-kwh", 2, "--embodied-g", 5, "--alpha", 2)
    assert call(run, "--format", "json", *args, "--data-efficiency", "0.1=0.85").exit_code == 0
    kept = load_report(run / "report.json").usage
    assert kept == Usage("DE", None, 1.2, 1000, 2.0, 5.0, 2.0, ((0.1, 0.85),))
    assert call(run, "--format", "sci", "--carbon-intensity", 100).exit_code == 0
    intensity = json.loads((run / "sci.json").read_text())["I"]
    assert (intensity["value"], intensity["place"], intensity["source"]) == (100, "Germany", "given by the user")
    # Another country brings its own intensity.
    assert call(run, "--format", "sci", "--country", "FR").exit_code == 0
    assert json.loads((run / "sci.json").read_text())["I"]["value"] == 44


def test_a_missing_browser_keeps_no_other_format_from_being_written(run, monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    assert refused(run, "--format", "pdf,csv").startswith("pdf: needs Chromium or Chrome, and none is on the path; ")
    assert (run / "arms.csv").is_file()
    assert not (run / "report.pdf").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--pue", "0.5"), "--pue: is 0.5; a building draws at least what its computers do, so 1 or more"),
        (("--uses", "0"), "--uses: is 0; a model that is used is used at least once"),
        (("--embodied-g", "5"), "--embodied-g: is given without the number of uses that it is shared among"),
        (("--carbon-intensity", "-5"), "--carbon-intensity: is -5, less than nothing"),
        (
            ("--format", "docx"),
            "--format: there is no format 'docx'; known: annex, card, csv, html, json, md, pdf, sci, txt",
        ),
        (
            ("--country", "Germny"),
            "--country: there is no carbon intensity for 'Germny'; did you mean 'Germany'? "
            "give a code such as DE, US or WORLD, or the intensity itself with --carbon-intensity",
        ),
    ],
)  # fmt: skip
def test_bad_options_are_one_clear_line(args, said, run):
    assert refused(run, *args) == said


def test_a_point_of_data_efficiency_that_is_none_is_named(run):
    result = call(run, "--data-efficiency", "half")
    assert result.exit_code == 2
    assert "'half' is not FRACTION=SCORE, such as 0.1=0.85" in result.output


def test_what_is_no_run_is_named(run, tmp_path):
    assert refused(tmp_path / "nix") == f"{tmp_path / 'nix'}: no such report"
    assert refused(tmp_path) == f"{tmp_path}: is no finished run: it has no report.json"
    path = run / "report.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert refused(run).startswith(f"{path}: is cut off at line ")
    raw = json.loads(text)
    path.write_text(json.dumps({**raw, "schema": 99}))
    assert refused(run) == (
        f"{path}: written by a newer compressor (record version 99, this one reads up to 2); upgrade"
    )
    raw["comparisons"][0]["deltas"][0]["ratio"] = 0.1
    path.write_text(json.dumps(raw))
    assert "disagrees with itself: comparisons[0].deltas[0].ratio is 0.1, but the trials give " in refused(run)


def test_the_record_of_a_benchmark_is_refused(tmp_path):
    path = tmp_path / "bench.json"
    bench = {"schema": 2, "tool": "t", "created_utc": "now", "runs": [], "interrupted": False, "settings": {}}
    task = {"name": "n", "metric": "m", "synthetic": True, "calibration_examples": 1, "test_examples": 1}
    path.write_text(json.dumps({**bench, "task": task, "command": ""}))
    assert refused(path) == (
        f"{path}: is the record of a benchmark, which compressed nothing; name a run's folder or its report.json"
    )
