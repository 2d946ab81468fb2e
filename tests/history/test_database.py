"""The history file: what is added stays, what is wrong with the file is told in one line."""

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.errors import HistoryError
from compressor.history import file as history_file
from compressor.history.database import SORTS, open_history
from compressor.history.exchange import record_run
from compressor.history.file import default_place, history_place
from compressor.history.rows import digest_of, rows_of
from compressor.store.records import dump_report


def refused(path, *, write=False, wait_s=0.0):
    with pytest.raises(HistoryError) as caught, open_history(path, write=write, wait_s=wait_s) as history:
        history.entries()
        if write:
            history.remove("none")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# --- what is in it -------------------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_was_added(place, fictional):
    report = fictional.measured()
    text = dump_report(report)
    run, arms = rows_of(report, digest_of(text), "/runs/1")
    with open_history(place, write=True) as history:
        assert history.add(run, arms, text)
        assert not history.add(run, arms, text)
    with open_history(place) as history:
        (entry,) = history.entries()
        assert (entry.run, entry.arm, entry.before) == (run, arms[2], arms[1])
        assert history.entries(compared=False)[0].before is None
        assert [e.arm for e in history.arms()] == list(arms)
        assert history.record(run.digest) == text
        assert history.find(run.digest[:5].upper()) == run
        assert history.count() == 1


def test_names_that_break_things_come_back_harmless(place, fictional):
    nasty = "'; DROP TABLE runs;--\x00\x1b[31m\u202e\n<b>" + "x" * 10_000
    report = fictional.measured()
    report = replace(report, model=replace(report.model, name=f"{nasty}\udce9"), task=replace(report.task, name=nasty))
    record_run(report, Path("/tmp/\udce9"), str(place))
    with open_history(place) as history:
        (entry,) = history.entries(task=nasty)
    assert entry.run.task == nasty
    assert entry.arm.model == f"{nasty}\\udce9"  # a lone surrogate has no UTF-8
    assert entry.run.folder == "/tmp/\\udce9"


def test_remove_takes_all_of_a_run(opened, filled):
    digest = opened.entries()[0].run.digest
    opened.remove(digest)
    assert opened.count() == 4
    with pytest.raises(HistoryError, match=rf": no run '{digest}'; 'compress history' shows the IDs$"):
        opened.find(digest)
    with sqlite3.connect(filled) as raw:
        counts = [raw.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("runs", "arms", "records")]
    raw.close()
    assert counts == [4, 12, 4]


def test_sorting_never_mixes_measured_and_estimated_joules(opened):
    by_energy = opened.entries(sort="energy")
    assert [e.arm.provenance for e in by_energy] == ["measured"] * 3 + ["estimated"] * 2
    measured = [e.arm.energy_j.value for e in by_energy[:3]]
    assert measured == sorted(measured)
    # The cheapest of all by its figure is an estimate, and yet not first.
    assert by_energy[3].arm.energy_j.value < measured[0]
    spent = opened.entries(sort="compress-energy")
    assert [e.run.compress_provenance for e in spent] == ["measured"] * 3 + ["estimated"] * 2


def test_sorting_and_filters(opened):
    assert all(len(opened.entries(sort=key)) == 5 for key in SORTS)
    task = "fashion-mnist (fictional scores)"
    scores = [e.arm.score.value for e in opened.entries(sort="score", task=task)]
    assert scores == sorted(scores, reverse=True) == [0.924, 0.9188, 0.9, 0.89]
    assert [e.arm.score.value for e in opened.entries(min_score=0.91, task=task, sort="score")] == [0.924, 0.9188]
    assert opened.count(min_score=0.91, task=task) == 2
    assert len(opened.entries(limit=2)) == 2
    days = [e.run.created_utc[8:10] for e in opened.entries(task=task)]
    assert days == ["04", "03", "02", "01"]
    cpu = [e.arm.cpu_s.value for e in opened.entries(sort="cpu-time")]
    assert cpu == sorted(cpu)


def test_less_is_better_where_the_metric_says_so(place, fictional):
    for day, error in ((1, 0.3), (2, 0.1)):
        report = fictional.measured()
        arms = tuple(
            replace(
                m, score=replace(m.score, name="mse", value=error, unit="m²", higher_is_better=False, per_example=None)
            )
            for m in report.measurements
        )
        record_run(replace(report, measurements=arms, created_utc=f"2030-01-0{day}"), None, str(place))
    with open_history(place) as history:
        assert [e.arm.score.value for e in history.entries(sort="score")] == [0.1, 0.3]
        assert [e.arm.score.value for e in history.entries(min_score=0.2)] == [0.1]


def test_an_unknown_task_names_the_known_ones(opened):
    with pytest.raises(HistoryError) as caught:
        opened.entries(task="sinthetic")
    assert str(caught.value) == (
        "--task: no run of task 'sinthetic'; did you mean 'synthetic'? "
        "known: fashion-mnist (fictional scores), synthetic"
    )


def test_hostile_names_of_tasks_are_shown_and_not_obeyed(place, variant):
    report = variant(1, 0.37, 9188)
    nasty = f"\x1b[31mred\u202e{'x' * 10_000}"
    record_run(replace(report, task=replace(report.task, name=nasty)), None, str(place))
    with open_history(place) as history, pytest.raises(HistoryError) as caught:
        history.entries(task="\x1b[2Jgone")
    assert str(caught.value).startswith("--task: no run of task '\\x1b[2Jgone'; known: \\x1b[31mred\\u202exxx")
    assert len(str(caught.value)) < 200


def test_ids_that_name_no_run(opened, filled):
    for text, message in (
        ("12", "'12' is no run; give the ID that 'compress history' shows"),
        ("../x", "'../x' is no run; give the ID that 'compress history' shows"),
        ("0000000", f"{filled}: no run '0000000'; 'compress history' shows the IDs"),
    ):
        with pytest.raises(HistoryError) as caught:
            opened.find(text)
        assert str(caught.value) == message


def test_an_id_that_several_runs_have_asks_for_more(place, fictional):
    report = fictional.measured()
    with open_history(place, write=True) as history:
        for end in "ab":
            run, arms = rows_of(report, "abcd" * 15 + "abc" + end, None)
            history.add(run, arms, "{}")
        with pytest.raises(HistoryError, match=r"several runs start with 'abcda'; give more of the ID$"):
            history.find("abcda")


# --- where it is ---------------------------------------------------------------------------------------------------


def test_the_option_wins_over_the_variable_over_the_users_folder(monkeypatch, tmp_path):
    assert history_place() is None  # what the tests' own fixture sees to
    monkeypatch.setenv("COMPRESSOR_HISTORY", "/elsewhere.db")
    assert history_place() == Path("/elsewhere.db")
    assert history_place("mine.db") == Path("mine.db")
    assert history_place("off") is None
    monkeypatch.delenv("COMPRESSOR_HISTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history_place() == default_place()
    if os.name == "posix" and shutil.which("uname") and os.uname().sysname == "Linux":
        assert default_place() == tmp_path / "compressor" / "history.db"


def test_the_users_folder_is_made_by_the_first_run(monkeypatch, tmp_path, fictional):
    monkeypatch.delenv("COMPRESSOR_HISTORY")
    monkeypatch.setattr(history_file, "default_place", lambda: tmp_path / "new" / "deep" / "history.db")
    assert record_run(fictional.measured(), None) is not None
    with open_history(tmp_path / "new" / "deep" / "history.db") as history:
        assert history.count() == 1


# --- what is wrong with it -----------------------------------------------------------------------------------------


def test_a_missing_file_or_folder(tmp_path):
    assert refused(tmp_path / "none.db") == "no such history; check the path"
    assert not (tmp_path / "none.db").exists()
    assert refused(tmp_path) == "is a folder; name a file"
    assert refused(tmp_path / "no" / "h.db", write=True) == (
        f"its folder does not exist; make the folder {tmp_path / 'no'} first"
    )


_DAMAGED = (
    "is not a history, or is damaged; move it away and a new one is begun; "
    "'compress history import' brings back what was exported"
)


@pytest.mark.parametrize("write", [False, True])
def test_a_file_of_something_else(tmp_path, write):
    file = tmp_path / "h.db"
    file.write_text("this is a diary, not a history" * 100)
    assert refused(file, write=write) == _DAMAGED
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as raw:
        raw.execute("CREATE TABLE bookmarks (url)")
    raw.close()
    assert refused(other, write=write) == "is another program's SQLite file; name another file with --history"
    raw = sqlite3.connect(other)
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("delete",)  # left as it was
    raw.close()


def test_a_damaged_file(filled):
    data = bytearray(filled.read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    filled.write_bytes(data)
    assert refused(filled) == _DAMAGED
    assert refused(filled, write=True) == _DAMAGED


def test_a_cut_off_file(filled):
    filled.write_bytes(filled.read_bytes()[:5000])
    assert refused(filled) == _DAMAGED


def test_a_damaged_record_is_told_by_its_run(filled):
    raw = sqlite3.connect(filled)
    raw.execute("UPDATE records SET packed = x'00'")
    raw.commit()
    raw.close()
    with open_history(filled) as history:
        digest = history.entries()[0].run.digest
        with pytest.raises(HistoryError, match=rf"the record of run {digest[:12]} is damaged; remove it, or import it"):
            history.record(digest)


def test_a_newer_file_asks_for_an_upgrade(filled):
    raw = sqlite3.connect(filled)
    raw.execute("PRAGMA user_version = 7")
    raw.close()
    message = "written by a newer compressor (history version 7, this one reads up to 1); upgrade"
    assert refused(filled) == message
    assert refused(filled, write=True) == message


def test_a_locked_file(filled):
    holder = sqlite3.connect(filled, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    locked = "is locked by another process (waited 0.1 s); try again when that one is done"
    assert refused(filled, write=True, wait_s=0.1) == locked
    with open_history(filled, wait_s=0.1) as history:
        assert history.count() == 5  # a writer keeps no reader waiting
    holder.execute("ROLLBACK")
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("UPDATE runs SET task = task")
    assert refused(filled, wait_s=0.1) == locked
    holder.close()


@pytest.fixture
def as_nobody():
    """A folder that anybody may read, looked at by somebody who may not write it: root may write anywhere."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    yield folder, lambda: os.seteuid(65534) if root else folder.chmod(0o555)
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_file_is_read_but_not_written(filled, as_nobody):
    folder, drop = as_nobody
    file = folder / "history.db"
    shutil.copyfile(filled, file)
    file.chmod(0o444)
    drop()
    with open_history(file) as history:
        assert history.count() == 5
    assert refused(file, write=True) == "is read-only; make it writable, or name another file with --history"
    assert refused(folder / "new.db", write=True) == "its folder may not be written; name another file with --history"


# --- several at once -----------------------------------------------------------------------------------------------


_WRITER = """
import pickle, sys, time
from dataclasses import replace
from pathlib import Path
from compressor.history.database import open_history

place, start = Path(sys.argv[1]), int(sys.argv[2])
run, arms, text = pickle.loads((place.parent / "run.pickle").read_bytes())
print("ready", flush=True)
sys.stdin.readline()
for number in range(start, start + 20):
    with open_history(place, write=True) as history:
        history.add(replace(run, digest=f"{number:064x}"), arms, text)
"""


def test_processes_that_write_at_once_lose_nothing(place, fictional):
    """Each opens the file anew for every run, and the file itself is made by whoever comes first."""
    report = fictional.estimated()
    text = dump_report(report)
    (place.parent / "run.pickle").write_bytes(pickle.dumps((*rows_of(report, "", None), text)))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(place), str(start)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for start in (0, 100)
    ]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    with open_history(place) as history:
        assert history.count() == 40
        written = {run.digest for run in history.runs()}
        assert written == {f"{number:064x}" for start in (0, 100) for number in range(start, start + 20)}
        assert all(history.record(digest) == text for digest in sorted(written)[::7])
