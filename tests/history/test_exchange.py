"""A history travels as JSON lines, whole and no run twice; what is not one is refused with its line."""

import json

import pytest

from compressor.errors import CompressorError
from compressor.history.database import History, open_history
from compressor.history.exchange import export_lines, import_file, record_run
from compressor.results import SCHEMA
from compressor.store.records import dump_report


def export(place, target):
    with open_history(place) as history:
        return export_lines(history, target)


def bring(place, source):
    with open_history(place, write=True) as history:
        return import_file(history, source)


@pytest.fixture
def lines(filled_once, tmp_path):
    export(filled_once, tmp_path / "all.jsonl")
    return tmp_path / "all.jsonl"


def test_a_history_comes_back_whole_and_no_run_twice(filled_once, lines, tmp_path):
    other = tmp_path / "other.db"
    assert len(lines.read_text().splitlines()) == 5
    assert bring(other, lines) == (5, 0)
    assert bring(other, lines) == (0, 5)
    with open_history(filled_once) as one, open_history(other) as two:
        assert two.entries() == one.entries()
        for run in one.runs():
            assert json.loads(two.record(run.digest)) == json.loads(one.record(run.digest))
    again = tmp_path / "again.jsonl"
    assert export(other, again) == 5
    assert again.read_bytes() == lines.read_bytes()


def test_what_another_process_added_meanwhile_is_not_counted_as_new(lines, tmp_path, monkeypatch):
    bring(tmp_path / "other.db", lines)
    # As if the other process had been a moment later: the import looks before, and adds after it.
    looked = iter([False, True] * 5)
    monkeypatch.setattr(History, "has", lambda self, digest: next(looked))
    assert bring(tmp_path / "other.db", lines) == (0, 5)


def test_recording_the_same_report_again_changes_nothing(place, fictional):
    report = fictional.measured()
    assert record_run(report, None, str(place)) == record_run(report, None, str(place))
    with open_history(place) as history:
        assert history.count() == 1


def test_switched_off_writes_nothing(fictional, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert record_run(fictional.measured(), None, "off") is None
    assert list(tmp_path.iterdir()) == []


def test_a_benchmark_is_recorded_exported_and_shown_apart(place, bench_record, tmp_path):
    record_run(bench_record, None, str(place))
    export(place, tmp_path / "b.jsonl")
    assert bring(tmp_path / "other.db", tmp_path / "b.jsonl") == (1, 0)
    with open_history(tmp_path / "other.db") as history:
        assert history.count() == 6
        assert {e.run.kind for e in history.entries()} == {"bench"}


def test_a_report_of_its_own_can_be_added(place, fictional, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_text(dump_report(fictional.measured()))
    assert bring(place, run / "report.json") == (1, 0)
    assert bring(place, run / "report.json") == (0, 1)
    with open_history(place) as history:
        assert history.entries()[0].run.folder == str(run)


def test_an_older_record_is_kept_as_it_was_and_read_as_it_is_now(place, fictional, tmp_path):
    raw = json.loads(dump_report(fictional.measured()))
    raw["schema"] = 1
    for key in ("confusion", "usage"):
        raw.pop(key, None)
    for one in raw["measurements"]:
        one["artifact"].pop("macs", None)
    (tmp_path / "old.jsonl").write_text(json.dumps({"history": 1, "record": raw}) + "\n")
    assert bring(place, tmp_path / "old.jsonl") == (1, 0)
    assert bring(place, tmp_path / "old.jsonl") == (0, 1)
    with open_history(place) as history:
        (entry,) = history.entries()
        assert json.loads(history.record(entry.run.digest)) == raw


def refused(place, source):
    with pytest.raises(CompressorError) as caught:
        bring(place, source)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(str(source))


def test_what_is_no_export(place, lines, tmp_path):
    file = tmp_path / "bad.jsonl"
    assert refused(place, tmp_path / "none") == ": no such file; check the path"
    assert refused(place, tmp_path) == ": cannot be read: Is a directory"
    file.write_bytes(b"\xff\xfe")
    assert refused(place, file) == ": is not text, so not an export"
    file.write_text("")
    assert refused(place, file) == ": holds no run"
    file.write_text("hello\n")
    assert refused(place, file) == ": is not JSON at line 1; run again"
    good = lines.read_text().splitlines()
    file.write_text(f"{good[0]}\n{good[1][:-200]}\n")
    assert refused(place, file) == ":2: is cut off or not a line of an export; export it again"
    newer = json.loads(good[1]) | {"history": 9}
    file.write_text(f"{good[0]}\n{json.dumps(newer)}\n")
    assert refused(place, file) == ":2: written by a newer compressor (line version 9, this one reads up to 1); upgrade"
    newer = json.loads(good[1])
    newer["record"]["schema"] = SCHEMA + 1
    file.write_text(f"{good[0]}\n{json.dumps(newer)}\n")
    assert refused(place, file) == (
        f":2: written by a newer compressor (record version {SCHEMA + 1}, this one reads up to {SCHEMA}); upgrade"
    )


def test_an_edited_record_is_refused_and_the_lines_before_it_stay(place, lines, tmp_path):
    good = lines.read_text().splitlines()
    edited = json.loads(good[1])
    edited["record"]["comparisons"][0]["deltas"][0]["ratio"] = 0.01
    file = tmp_path / "edited.jsonl"
    file.write_text("\n".join([good[0], json.dumps(edited), good[2]]))
    assert refused(place, file).startswith(":2: disagrees with itself: comparisons[0].deltas[0].ratio ")
    with open_history(place) as history:
        assert history.count() == 1
    assert bring(place, lines) == (4, 1)


def test_an_export_that_cannot_be_written_leaves_nothing(filled_once, tmp_path):
    with pytest.raises(CompressorError, match=r"its folder does not exist; make the folder "):
        export(filled_once, tmp_path / "no" / "all.jsonl")
    with pytest.raises(CompressorError, match=r": is a folder; name a file$"):
        export(filled_once, tmp_path)
    assert list(tmp_path.iterdir()) == []
