"""The folder of a run: written beside, marked stage by stage, renamed when it is whole.

While a run goes on, everything is in ``DIR.partial``. A stage counts as finished when its mark is in ``stages.json``
there, which is itself written beside and renamed; whatever an interrupt or a kill left half-written carries no mark and
is done again. Only a finished run is renamed to ``DIR``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from compressor.errors import OutputError

_MARKS = "stages.json"
_LOCK = "lock"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """A run's folder, open for writing; use :func:`open_run`.

    Attributes:
        path: Where to write while the run goes on.
        final: Where it will be when it is finished.
        resumed: Stages found finished.
    """

    def __init__(self, final: Path, path: Path, fingerprint: Callable[[str], str], marks: dict[str, Any]) -> None:
        self.final, self.path = final, path
        self._fingerprint, self._marks = fingerprint, marks
        self.resumed = tuple(marks)

    def require_space(self, needed_bytes: int) -> None:
        """See to it that a stage will not run out of disk: torch's own writer ends the process when it does.

        Args:
            needed_bytes: What the run will write, roughly.

        Raises:
            OutputError: Less is free.
        """
        free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            raise OutputError(
                f"the disk is full: about {needed_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free",
                where=self.final,
                mend="free some space or name another folder with --out",
            )

    def finished(self, stage: str) -> Any:
        """What a finished stage recorded; ``None`` if the stage is still to be done."""
        return self._marks.get(stage)

    def mark(self, stage: str, record: Any) -> None:
        """Record a stage as finished; its files are in place by now.

        A stage that is done again takes the marks of those after it away: they were made of what it was before.

        Args:
            stage: Its name.
            record: Anything JSON can hold except ``None``.
        """
        stages = list(self._marks)
        for later in stages[stages.index(stage) :] if stage in stages else ():
            del self._marks[later]
        self._marks[stage] = record
        marks = {name: {"fingerprint": self._fingerprint(name), "record": made} for name, made in self._marks.items()}
        write_beside(self.path / _MARKS, json.dumps({"stages": marks}, indent=1))

    def forget(self) -> None:
        """Let nothing stay of what is finished: a run with mended input would not take it up."""
        self._marks.clear()

    def finish(self) -> Path:
        """Rename the folder to its final name, replacing an older run of that name, and drop the marks.

        Returns:
            The final folder.

        Raises:
            OutputError: It could not be renamed.
        """
        old = self.final.with_name(f"{self.final.name}.old")
        try:
            if self.final.exists():
                # A folder cannot replace another in one step: the old one steps aside first and comes back on failure.
                shutil.rmtree(old, ignore_errors=True)
                self.final.rename(old)
            try:
                self.path.rename(self.final)
            except OSError:
                if old.exists():
                    old.rename(self.final)
                raise
        except OSError as error:
            raise _output_error(error, self.final) from error
        # Last of all: killed before the renaming, the next run still finds every stage.
        for name in (_MARKS, _LOCK):
            (self.final / name).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        return self.final


@contextmanager
def open_run(
    final: Path,
    settings: Mapping[str, object] | Callable[[str], Mapping[str, object]],
    *,
    overwrite: bool = False,
    proof: str = "report.json",
) -> Iterator[RunFolder]:
    """Open a run's folder, taking up an unfinished run where it stopped.

    Args:
        final: The folder of the finished run.
        settings: All that decides the outcome, or of every stage all that decides its outcome; a run is only resumed
            if what it finished would be made with the same.
        overwrite: Start over, and replace a finished run.
        proof: The file by which a finished run is known; a folder without it is never replaced.

    Yields:
        The folder. When the block is left without :meth:`RunFolder.finish`, finished stages stay for the next run;
        if there are none, nothing stays.

    Raises:
        OutputError: A finished run is there, an unfinished one has other settings, another process is writing to it, or
            the folder cannot be written.
    """
    if final.name in ("", ".."):
        raise OutputError("is no name for a new folder", where=final, mend="name another folder with --out")
    partial = final.with_name(f"{final.name}.partial")

    def fingerprint(stage: str) -> str:
        deciding = settings(stage) if callable(settings) else settings
        return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()

    with ExitStack() as stack:
        try:
            _check_final(final, overwrite, proof)
            made = [folder for folder in partial.parents if not folder.exists()]
            partial.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_only_one(partial))
            marks = _found_marks(partial, fingerprint, overwrite)
        except OSError as error:
            raise _output_error(error, final) from error
        folder = RunFolder(final, partial, fingerprint, marks)
        try:
            yield folder
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise _output_error(error, final) from error
        finally:
            if partial.exists() and not folder._marks:
                shutil.rmtree(partial, ignore_errors=True)
                with suppress(OSError):  # another run may have put its own folder there
                    for parent in made:
                        parent.rmdir()


def _check_final(final: Path, overwrite: bool, proof: str) -> None:
    """Refuse a folder that holds a finished run, unless told to replace it, and anything that is no run at all."""
    if final.exists() and not overwrite:
        kind = "already holds something" if final.is_dir() else "is a file"
        raise OutputError(kind, where=final, mend="name another folder with --out, or add --overwrite to replace it")
    if final.exists() and not final.is_dir():
        raise OutputError("is a file", where=final, mend="name another folder with --out")
    if final.is_dir() and any(final.iterdir()) and not (final / proof).is_file():
        raise OutputError("holds files that are not a run's", where=final, mend="name another folder with --out")


def write_beside(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: The file.
        content: What goes in; text as UTF-8.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _output_error(error, path) from error


def require_place(path: Path) -> None:
    """See to it that a file can be written there, before minutes are spent on what goes into it.

    Args:
        path: The file; it need not exist.

    Raises:
        OutputError: It is a folder, or its own folder is missing or may not be written.
    """
    if path.is_dir():
        raise OutputError("is a folder", where=path, mend="name a file")
    if not path.parent.is_dir():
        raise OutputError("its folder does not exist", where=path, mend=f"make the folder {path.parent} first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError("its folder may not be written", where=path, mend="name another place")


def _found_marks(partial: Path, fingerprint: Callable[[str], str], overwrite: bool) -> dict[str, Any]:
    """Marks of an unfinished run that may be taken up; empties the folder if it may not."""
    found: dict[str, Any] = {}
    try:
        found = json.loads((partial / _MARKS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError as error:
        if not overwrite:
            mend = "add --overwrite to start over"
            raise OutputError("holds an unfinished run whose marks cannot be read", where=partial, mend=mend) from error
    if found and not overwrite:
        marks = found["stages"]
        if any(mark.get("fingerprint") != fingerprint(stage) for stage, mark in marks.items()):
            mend = "repeat the same command to resume it, or add --overwrite to start over"
            raise OutputError("holds an unfinished run of another model, data or settings", where=partial, mend=mend)
        return {stage: mark["record"] for stage, mark in marks.items()}
    for entry in partial.iterdir():
        if entry.name != _LOCK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return {}


@contextmanager
def _only_one(partial: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system drops when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; two runs into one folder are then the user's to avoid
        yield
        return
    with (partial / _LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            mend = "wait for it, or name another folder with --out"
            raise OutputError("another run is writing to it", where=partial, mend=mend) from error
        yield


def _output_error(error: OSError, path: Path) -> OutputError:
    if error.errno in _DISK_FULL:
        return OutputError("the disk is full", where=path, mend="free some space or name another folder with --out")
    return OutputError(
        f"cannot be written ({error.strerror or error})", where=path, mend="name another folder with --out"
    )
