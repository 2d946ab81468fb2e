"""Rows to columns and back; test_database.py has them in a file."""

from dataclasses import fields, replace

import pytest

from compressor.history.rows import Mean, digest_of, rows_of
from compressor.history.tables import ARMS, RUNS, columns, row_of, values_of, width
from compressor.store.records import dump_report


@pytest.fixture
def rows(fictional):
    report = fictional.measured()
    run, arms = rows_of(report, digest_of(dump_report(report)), "/runs/1")
    return {RUNS: run, ARMS: arms[2]}


@pytest.mark.parametrize("table", [RUNS, ARMS], ids=["run", "arm"])
def test_a_row_comes_back_from_its_columns(table, rows):
    row = rows[table]
    means = [field.name for field in fields(row) if isinstance(getattr(row, field.name), Mean)]
    assert means or table is RUNS
    lone = {name: Mean(0.5, None) for name in means}
    for one in (row, replace(row, **lone), replace(row, **dict.fromkeys(means))):
        values = values_of(one)
        places = columns(table, type(row))
        assert len(places) == width(type(row)) == len(values)
        assert row_of(type(row), [values[place.name] for place in places]) == one


def test_booleans_come_back_as_such_from_what_sqlite_keeps(rows):
    run = rows[RUNS]
    kept = [int(v) if isinstance(v, bool) else v for v in values_of(run).values()]
    back = row_of(type(run), kept)
    assert [name for name, v in vars(back).items() if isinstance(v, bool)] == [
        name for name, v in vars(run).items() if isinstance(v, bool)
    ]
    assert any(isinstance(v, bool) for v in vars(run).values())
    alias = columns(RUNS.alias(), type(run))
    assert [place.name for place in alias] == [place.name for place in columns(RUNS, type(run))]
