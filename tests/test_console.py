"""What ``compress bench`` prints fits 80 columns: names give way, figures never do (fictional data)."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.console import print_bench
from compressor.results import SCHEMA, BenchRecord, BenchRun, MeterInfo


@pytest.fixture(scope="module")
def fictional():
    source = Path(__file__).parent / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fictional_reports_of_console", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_verdicts_have_the_words_of_the_report(fictional, capsys):
    report = fictional.estimated()
    wide = tuple(replace(control, detection_limit=2.7) for control in report.control)
    found = report.comparisons[0]
    same = tuple(replace(d, ratio=1.0, reason="the same size") if d.metric == "size" else d for d in found.deltas)
    run = BenchRun(report.measurements, wide, (replace(found, deltas=same),), ())
    print_bench(BenchRecord(SCHEMA, "x", "2030-02-01T00:00:00Z", report.task, (run,), False, {}, ""))
    out = capsys.readouterr().out
    rows = [re.split("  +", line.strip()) for line in out.splitlines()]
    energy, size = (next(row for row in rows if row[0].startswith(name)) for name in ("energy (", "size"))
    assert energy[-2:] == ["±270 %", "no verdict"]
    assert size[-2:] == ["exact", "no change"]
    assert "the same size" not in out


def test_three_meters_and_long_names_leave_the_figures_whole(fictional, capsys):
    wall = MeterInfo("log", ("wall",), "measured", "machine", 1.0, 0.1, "wall meter (fictional)")
    long = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 "
    arms = tuple(replace(arm, name=f"{long}{arm.name}") for arm in fictional.ARMS)
    report = fictional.build((fictional.RAPL, wall, fictional.CPU_TIME_METER), arms)
    run = BenchRun(report.measurements, report.control, report.comparisons, ())
    print_bench(BenchRecord(SCHEMA, "x", "2030-02-01T00:00:00Z", report.task, (run,), False, {}, ""))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if "int8" in line and "µs" in line).split()
    assert [row[i] for i in (-9, -7, -5, -3, -1)] == ["mJ", "mJ", "mJ", "ms", "kB"]
    assert "…" not in "".join(row[-12:])
    assert any(re.search(r"\d % less \[[\d.]+, [\d.]+\] +±[\d.]+ % +better", line) for line in lines)
