"""The committed examples of real runs are read as strictly as any record and rendered in every text format."""

from pathlib import Path

import pytest

from compressor.report.formats import FORMATS
from compressor.store.records import load_report

FOLDER = Path(__file__).parents[2] / "examples" / "reports"
RUNS = sorted(FOLDER.glob("*/report.json"))
TEXTS = [name for name in FORMATS if name not in ("pdf", "html")]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_an_example_is_a_real_run_and_renders_in_every_format(path):
    report = load_report(path)
    assert all(len(m.trials) >= 3 for m in report.measurements)
    assert not report.task.synthetic
    for name in TEXTS:
        assert FORMATS[name].render(report)


@pytest.mark.skipif(not RUNS, reason="not run: no example is committed; make them with benchmarks.example_reports")
def test_the_examples_are_of_three_tasks():
    assert len({load_report(path).task.name for path in RUNS}) >= 3
