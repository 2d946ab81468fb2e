"""The file that a history lies in: where it is, whether it is one, and what SQLite says of it in plain words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
from platformdirs import user_data_path

from compressor.errors import HistoryError
from compressor.history.tables import TABLES

VARIABLE = "COMPRESSOR_HISTORY"
"""Environment variable that names another history file, or switches the history off."""
OFF = "off"
"""What switches it off, as the option or the variable."""
VERSION = 1
"""Of the tables; kept in the file's ``user_version``."""
WAIT_S = 10.0
"""How long to wait while another process writes."""

_APPLICATION = 0x636D7072
"""The file's ``application_id``, by which other programs' SQLite files are told apart and left alone."""
_NOT_ONE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_FORMAT")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


def history_place(named: str | None = None) -> Path | None:
    """Where the history is.

    Args:
        named: What ``--history`` says; it wins over the environment variable, which wins over the user's data folder.

    Returns:
        The file, which need not exist; ``None`` if the history is switched off.
    """
    chosen = named or os.environ.get(VARIABLE)
    if chosen == OFF:
        return None
    return Path(chosen).expanduser() if chosen else default_place()


def default_place() -> Path:
    """The history in the user's data folder."""
    return user_data_path("compressor", appauthor=False) / "history.db"


@contextmanager
def open_file(path: Path, *, write: bool = False, wait_s: float = WAIT_S) -> Iterator[Any]:
    """Open a history file; a new one is made if it is to be written.

    Args:
        path: The file.
        write: Whether something will be added or removed.
        wait_s: How long to wait while another process writes.

    Yields:
        The database, its tables made.

    Raises:
        HistoryError: It is missing, locked, damaged, another program's, written by a newer version, or may not be
            written.
    """
    _check_place(path, write)
    writable = _may_write(path)
    mode = "mode=rwc" if writable else "mode=ro"
    if not writable and not path.with_name(f"{path.name}-wal").exists():
        # Nobody writes it, and SQLite could not make its log beside it.
        mode += "&immutable=1"
    database = peewee.SqliteDatabase(
        f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=wait_s, pragmas={"foreign_keys": 1}
    )
    try:
        database.connect()
        _prepare(database, path, writable, time.monotonic() + wait_s)
        yield database
    except peewee.DatabaseError as error:
        raise _error(error, path, wait_s) from error
    finally:
        database.close()


def _check_place(path: Path, write: bool) -> None:
    if path.is_dir():
        raise HistoryError("is a folder", where=path, mend="name a file")
    if path.exists():
        if write and not _may_write(path):
            raise HistoryError("is read-only", where=path, mend="make it writable, or name another file with --history")
        return
    if not write:
        raise HistoryError("no such history", where=path, mend="check the path")
    try:
        if path == default_place():
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoryError(f"cannot be made: {error.strerror}", where=path.parent) from None
    if not path.parent.is_dir():
        raise HistoryError("its folder does not exist", where=path, mend=f"make the folder {path.parent} first")
    if not _may_write(path):
        raise HistoryError("its folder may not be written", where=path, mend="name another file with --history")


def _may_write(path: Path) -> bool:
    """Whether the file and its folder, where SQLite keeps its log, may be written."""
    effective = os.access in os.supports_effective_ids
    places = (path, path.parent) if path.exists() else (path.parent,)
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in places)


def _prepare(database: Any, path: Path, writable: bool, deadline: float) -> None:
    """Make sure that the file is a history of this version; make one of an empty file."""
    application, version = database.pragma("application_id"), database.pragma("user_version")
    if application == _APPLICATION:
        if version > VERSION:
            raise HistoryError(
                f"written by a newer compressor (history version {version}, this one reads up to {VERSION})",
                where=path,
                mend="upgrade",
            )
        return
    if application or version or database.get_tables() or not writable:
        raise HistoryError("is another program's SQLite file", where=path, mend="name another file with --history")
    _keep_log(database, deadline)
    with database.atomic("IMMEDIATE"), database.bind_ctx(TABLES):
        # Another process may have made the tables while this one waited for the lock.
        database.create_tables(TABLES, safe=True)
        database.pragma("user_version", VERSION)
        database.pragma("application_id", _APPLICATION)


def _keep_log(database: Any, deadline: float) -> None:
    """Switch to a write-ahead log. SQLite does not wait for others here, so this does."""
    while True:
        try:
            database.pragma("journal_mode", "wal")
            return
        except peewee.OperationalError as error:
            if _name(error) not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _name(error: peewee.DatabaseError) -> str:
    """SQLite's own name of an error, without what follows its second word."""
    full = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return "_".join(full.split("_")[:2])


def _error(error: peewee.DatabaseError, path: Path, wait_s: float) -> HistoryError:
    name = _name(error)
    if name in _BUSY:
        return HistoryError(
            f"is locked by another process (waited {wait_s:g} s)", where=path, mend="try again when that one is done"
        )
    if name in _NOT_ONE:
        return HistoryError(
            "is not a history, or is damaged",
            where=path,
            mend="move it away and a new one is begun; 'compress history import' brings back what was exported",
        )
    if name == "SQLITE_FULL":
        return HistoryError("the disk is full", where=path)
    if name in ("SQLITE_READONLY", "SQLITE_PERM"):
        return HistoryError("is read-only", where=path, mend="make it writable, or name another file with --history")
    return HistoryError(f"cannot be opened or written: {error.args[-1] if error.args else error}", where=path)
