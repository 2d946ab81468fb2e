"""Logging to MLflow, against a stand-in: MLflow is an extra that is not installed here.

``FakeMlflow`` is a fake. It has the calls that the package makes, and keeps what it was given.
"""

import importlib.util
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from compressor.errors import HistoryError, RuntimeUnavailableError
from compressor.mlflow import EXPERIMENT, log_run
from compressor.report import aggregates


class FakeMlflow(ModuleType):
    """Stands in for ``mlflow``; not the real thing."""

    def __init__(self, refuses=None):
        super().__init__("mlflow")
        self.refuses = refuses
        self.uri = self.experiment = self.run_name = None
        self.params, self.metrics, self.tags, self.artifacts = {}, {}, {}, []

    def set_tracking_uri(self, uri):
        self.uri = uri

    def set_experiment(self, name):
        self.experiment = name

    @contextmanager
    def start_run(self, run_name):
        if self.refuses:
            raise self.refuses
        self.run_name = run_name
        yield SimpleNamespace(info=SimpleNamespace(experiment_id="7", run_id="abc"))

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, metrics):
        self.metrics |= metrics

    def set_tags(self, tags):
        self.tags |= tags

    def log_artifact(self, path):
        self.artifacts.append(Path(path).name)


@pytest.fixture(scope="module")
def fictional():
    source = Path(__file__).parent / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fictional_reports_of_mlflow", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    found = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", found)
    return found


def test_settings_figures_and_files_are_logged(fake, fictional, tmp_path):
    report = fictional.measured()
    for name in ("report.json", "report.md", "model.onnx"):
        (tmp_path / name).write_text("x")
    assert log_run(report, tmp_path, "http://server") == "experiment 7, run abc"
    assert (fake.uri, fake.experiment, fake.run_name) == ("http://server", EXPERIMENT, "resnet8 int8")
    assert fake.params["max_loss"] == "0.01"
    assert fake.params["model_sha256"] == report.model.sha256
    assert fake.params["energy_provenance"] == "measured"
    arm = next(m for m in report.measurements if m.role == "candidate")
    energy = aggregates.energy(report, arm, fictional.RAPL).quantity
    assert fake.metrics["energy_measured_j"] == energy.value
    assert (fake.metrics["energy_measured_j_low"], fake.metrics["energy_measured_j_high"]) == energy.ci95
    assert fake.metrics["score"] == 0.9188
    assert fake.metrics["score_baseline"] == 0.9193
    assert fake.metrics["energy_measured_ratio"] < 1
    assert fake.metrics["size_bytes"] < fake.metrics["size_bytes_baseline"]
    assert all(isinstance(value, float) for value in fake.metrics.values())
    assert fake.tags["headline"] == report.headline
    assert fake.artifacts == ["report.json", "report.md"]


def test_estimated_joules_never_bear_a_name_of_measured_ones(fake, fictional, tmp_path):
    log_run(fictional.estimated(), tmp_path)
    assert fake.uri is None
    assert "energy_estimated_j" in fake.metrics
    assert not [name for name in fake.metrics if "measured" in name]
    log_run(fictional.mixed(), tmp_path)
    assert {"energy_estimated_j", "energy_measured_j_baseline"} <= fake.metrics.keys()


def test_what_was_not_read_is_not_logged(fake, fictional, tmp_path):
    log_run(fictional.nothing_measured(), tmp_path)
    assert "cpu_s" not in fake.metrics
    assert "cpu_s_baseline" in fake.metrics
    assert all("_baseline" in name for name in fake.metrics if name.startswith("energy"))


def test_names_and_values_are_made_fit(fake, fictional, tmp_path):
    report = replace(fictional.measured(), settings={"a\n=b": "x" * 9_000})
    log_run(report, tmp_path)
    assert fake.params["a__b"] == "x" * 500


def test_the_users_own_experiment_is_left_alone(fake, fictional, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    log_run(fictional.measured(), tmp_path)
    assert fake.experiment is None


def test_a_server_that_refuses_is_one_line(fictional, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow(ConnectionError("no route\nto host")))
    with pytest.raises(HistoryError) as caught:
        log_run(fictional.measured(), tmp_path)
    assert str(caught.value) == "MLflow: ConnectionError: no route to host"


def test_without_mlflow_the_message_says_what_to_install(fictional, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RuntimeUnavailableError) as caught:
        log_run(fictional.measured(), tmp_path)
    assert str(caught.value) == "--mlflow: MLflow is not installed; pip install 'compressor[mlflow]'"
