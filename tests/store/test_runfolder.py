"""The run folder: whole or marked, never half; resumed or started over as told."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from compressor.errors import OutputError
from compressor.store import runfolder
from compressor.store.runfolder import open_run, write_beside

SETTINGS = {"model": "a.pt2"}


def test_finished_run_is_renamed_without_its_marks(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", {"a": 1}) as run:
        write_beside(run.path / "report.json", "{}")
        run.mark("export", {"size": 1})
        assert not (tmp_path / "out").exists()
        assert run.finish() == tmp_path / "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json"]


def test_stage_done_again_takes_the_marks_of_later_ones_away(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", SETTINGS) as run:
        for stage in ("export", "prune", "measure"):
            run.mark(stage, 1)
        run.mark("prune", 2)
        assert [run.finished(stage) for stage in ("export", "prune", "measure")] == [1, 2, None]


def test_nothing_stays_of_what_is_forgotten_nor_of_folders_made_for_it(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "b" / "out", SETTINGS) as run:
        run.mark("export", 1)
        run.forget()
    assert list(tmp_path.iterdir()) == []


def test_marks_stay_until_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "busy")

    with pytest.raises(OutputError), open_run(tmp_path / "out", SETTINGS) as run:
        run.mark("export", 1)
        monkeypatch.setattr(Path, "rename", refused)
        run.finish()
    with open_run(tmp_path / "out", SETTINGS) as run:
        assert run.resumed == ("export",)


def test_nothing_stays_of_a_run_without_a_finished_stage(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "out", {"a": 1}) as run:
        (run.path / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_finished_stages_are_taken_up_by_the_same_settings_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_run(out, {"a": 1}) as run:
        run.mark("export", {"size": 1})
        raise KeyboardInterrupt
    with open_run(out, {"a": 1}) as run:
        assert run.resumed == ("export",)
        assert run.finished("export") == {"size": 1}
        assert run.finished("int8") is None
    message = (
        f"{out}.partial: holds an unfinished run of another model, data or settings; "
        "repeat the same command to resume it, or add --overwrite to start over"
    )
    with pytest.raises(OutputError) as caught, open_run(out, {"a": 2}):
        pass
    assert str(caught.value) == message
    with open_run(out, {"a": 2}, overwrite=True) as run:
        assert run.resumed == ()
        assert not (run.path / "stages.json").exists()


def test_a_stage_is_taken_up_by_what_decides_on_it(tmp_path: Path) -> None:
    def of(*methods: str) -> Callable[[str], dict[str, object]]:
        return lambda stage: {"methods": methods[: ("export", "1", "2").index(stage)]}

    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "out", of("a", "b")) as run:
        for stage in ("export", "1"):
            run.mark(stage, stage)
        raise KeyboardInterrupt
    with open_run(tmp_path / "out", of("a", "c")) as run:
        assert run.resumed == ("export", "1")
    with pytest.raises(OutputError), open_run(tmp_path / "out", of("c", "b")):
        pass


def test_finished_run_is_kept_unless_overwriting(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("old")
    with pytest.raises(OutputError) as caught, open_run(out, {}):
        pass
    assert str(caught.value) == (
        f"{out}: already holds something; name another folder with --out, or add --overwrite to replace it"
    )
    with open_run(out, {}, overwrite=True) as run:
        write_beside(run.path / "report.json", "new")
        assert (out / "report.json").read_text() == "old"
        run.finish()
    assert (out / "report.json").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_a_killed_run_set_aside_does_not_stand_in_the_way(tmp_path: Path) -> None:
    for name in ("out", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(name)
    with open_run(tmp_path / "out", {}, overwrite=True) as run:
        write_beside(run.path / "report.json", "new")
        run.finish()
    assert (tmp_path / "out" / "report.json").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_too_little_room_is_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfolder.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with open_run(tmp_path / "out", {}) as run:
        run.require_space(3_000_000)
        with pytest.raises(OutputError) as caught:
            run.require_space(7_000_000)
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: the disk is full: about 7 MB are needed, 3 MB are free; "
        "free some space or name another folder with --out"
    )


def test_overwrite_never_removes_what_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds files that are not a run's"), open_run(tmp_path, {}, overwrite=True):
        pass
    file = tmp_path / "thesis.tex"
    with pytest.raises(OutputError, match=r"thesis.tex: is a file; name another"), open_run(file, {}, overwrite=True):
        pass
    assert file.read_text() == "years of work"


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", {}) as run:
        run.mark("export", 1)
        with pytest.raises(OutputError, match="another run is writing to it"), open_run(tmp_path / "out", {}):
            pass


def test_marks_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "stages.json").write_text("{")
    with pytest.raises(OutputError, match="marks cannot be read; add --overwrite"), open_run(tmp_path / "out", {}):
        pass
    with open_run(tmp_path / "out", {}, overwrite=True) as run:
        assert run.resumed == ()


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match=r"cannot be written \(Not a directory\)"),
        open_run(tmp_path / "file/out", {}),
    ):
        pass


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # /dev/full is not a folder, so the system's refusal is put in by hand here; the end-to-end test fills a real disk.
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        write_beside(path, "new")
    assert str(caught.value) == f"{path}: the disk is full; free some space or name another folder with --out"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_kill_while_writing_marks_leaves_marks_that_can_be_read(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from compressor.store.runfolder import open_run\n"
        "with open_run(Path(sys.argv[1]), {}) as run:\n"
        "    for i in range(10**9): run.mark('export', {'i': i, 'pad': 'x' * 100_000}); print(i, flush=True)\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    marks = json.loads((tmp_path / "out.partial" / "stages.json").read_text())
    assert marks["stages"]["export"]["record"]["i"] >= 2
    with open_run(out, {}) as run:
        assert run.resumed == ("export",)
