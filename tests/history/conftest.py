"""Lends the fictional reports of ``tests/report`` to these tests, and a history of some of them."""

import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.history.database import open_history
from compressor.history.exchange import record_run
from compressor.results import SCHEMA, BenchRecord, BenchRun

_SOURCE = Path(__file__).parents[1] / "report" / "conftest.py"


@pytest.fixture(scope="session")
def fictional():
    spec = importlib.util.spec_from_file_location("fictional_reports_of_history", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def variant(fictional):
    """A report like the others, of a model with its own cost and score."""

    def make(day, cpu_ms, correct, *, measured=True, name="ONNX int8", **changes):
        arms = (*fictional.ARMS[:3], replace(fictional.ARMS[3], name=name, cpu_ms=cpu_ms, correct=correct))
        report = fictional.build((fictional.RAPL if measured else fictional.CPU_TIME_METER,), arms)
        own = f"{day:02}" * 32
        arms = tuple(
            replace(m, artifact=replace(m.artifact, sha256=own)) if m.role == "candidate" else m
            for m in report.measurements
        )
        return replace(report, measurements=arms, created_utc=f"2030-01-{day:02}T00:00:00+00:00", **changes)

    return make


@pytest.fixture(scope="session")
def bench_record(fictional):
    report = fictional.measured()
    run = BenchRun(report.measurements, report.control, report.comparisons, ())
    return BenchRecord(SCHEMA, "compressor 0-fictional", "2030-02-01T00:00:00Z", report.task, (run, run), False, {}, "")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture(scope="session")
def some_reports(variant, fictional):
    """Three measured runs, one estimated, one on random inputs."""
    return (
        variant(1, 0.37, 9188),
        variant(2, 0.2, 8900),
        variant(3, 0.9, 9240),
        variant(4, 0.1, 9000, measured=False),
        fictional.synthetic(),
    )


@pytest.fixture(scope="session")
def filled_once(some_reports, tmp_path_factory):
    place = tmp_path_factory.mktemp("filled") / "history.db"
    for report in some_reports:
        record_run(report, None, str(place))
    return place


@pytest.fixture
def filled(filled_once, place):
    """A history of :func:`some_reports`."""
    shutil.copyfile(filled_once, place)
    return place


@pytest.fixture
def opened(filled):
    with open_history(filled, write=True) as history:
        yield history
