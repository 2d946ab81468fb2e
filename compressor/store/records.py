"""``report.json`` and what ``bench`` saves: one form, read back only if whole, known and in agreement with itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compressor import results
from compressor.errors import OutputError
from compressor.json_schema import describe
from compressor.results import SCHEMA, BenchRecord, Report
from compressor.store.agreement import Disagreement, bench_disagreements, disagreements

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def _without_use(raw: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: confusion, use and multiply-accumulates came in; a record without them has none."""
    return {**raw, "schema": 2}


UPGRADERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _without_use}
"""From a version of the record to a function that turns its JSON into the next version's."""

BENCH_UPGRADERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _without_use}
"""The same for the record of a benchmark."""

_INDENT = "  "
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}

Record = TypeVar("Record", Report, BenchRecord)


def dump_report(report: Report | BenchRecord) -> str:
    """Write a report, or the record of a benchmark, as JSON.

    Args:
        report: The record.

    Returns:
        Indented JSON in the order of the record's fields, lists of plain values on one line, ending in a newline.

    Raises:
        OutputError: A number is not finite, or a value is nothing that JSON has: both would be lost in reading.
    """
    return _pretty(_plain(report, "report"), "") + "\n"


def load_report(path: Path) -> Report:
    """Read a report and make sure that it can be believed.

    Args:
        path: The JSON file.

    Returns:
        The record, upgraded to this version.

    Raises:
        OutputError: The file is missing or cut off, was written by a newer version, has a wrong type or an unknown key,
            or holds numbers that do not follow from its trials.
    """
    return _believed(_upgrade(_parse(_read(path), path), path, UPGRADERS), path, Report, disagreements)


def load_measured(path: Path) -> Report | BenchRecord:
    """Read either a report or the record of a benchmark, as strictly.

    Args:
        path: A ``report.json``, or what ``compress bench --out`` wrote.

    Returns:
        The record, upgraded to this version.

    Raises:
        OutputError: As :func:`load_report`.
    """
    return parse_measured(_read(path), path)


def parse_measured(text: str, where: object) -> Report | BenchRecord:
    """Read either record from its JSON, as strictly.

    Args:
        text: The JSON.
        where: What to call its place in a message, e.g. a file and a line.

    Returns:
        The record, upgraded to this version.

    Raises:
        OutputError: As :func:`load_report`.
    """
    raw = _parse(text, where)
    if "runs" not in raw:
        return _believed(_upgrade(raw, where, UPGRADERS), where, Report, disagreements)
    return _believed(_upgrade(raw, where, BENCH_UPGRADERS), where, BenchRecord, bench_disagreements)


def _believed(
    raw: dict[str, Any], where: object, kind: type[Record], check: Callable[[Record], Iterator[Disagreement]]
) -> Record:
    record = _validate(raw, where, kind)
    written = _plain(record, "report")
    if unknown := next(_unknown(raw, written, ""), None):
        raise OutputError(f"unknown key {unknown}", where=where, mend="it was not written by this program")
    if found := next(check(record), None):
        key, what = found
        raise OutputError(f"disagrees with itself: {key} {what}", where=where, mend="it was edited; run again")
    return record


def report_schema(kind: type[Report] | type[BenchRecord] = Report) -> dict[str, Any]:
    """JSON Schema of a record (draft 2020-12), every key described, unknown keys forbidden."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_adapter(kind).json_schema()}
    for name, definition in ((kind.__name__, schema), *schema["$defs"].items()):
        describe(definition, getattr(results, name))
        definition["additionalProperties"] = False
    return schema


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:  # making one takes a while
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _plain(value: Any, key: str) -> Any:
    """A record as JSON's own types."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name), f"{key}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, f"{key}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OutputError(f"{value} is not a number that a record may hold", where=key)
        # Whole numbers are written the same way whether they came as int or float, and 10 000 hits stay short.
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)
    if value is None or isinstance(value, str | int):
        return value
    raise OutputError(f"a record cannot hold a {type(value).__name__}", where=key)


def _pretty(value: Any, indent: str) -> str:
    inner = indent + _INDENT
    if isinstance(value, dict) and value:
        lines = (f"{inner}{json.dumps(name, ensure_ascii=False)}: {_pretty(v, inner)}" for name, v in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(f"{inner}{_pretty(item, inner)}" for item in value) + f"\n{indent}]"
    # A lone surrogate, e.g. from a file's name, has no UTF-8.
    lone = isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)
    return json.dumps(value, ensure_ascii=lone, allow_nan=False)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise OutputError("no such report", where=path) from None
    except IsADirectoryError:
        raise OutputError("is a folder", where=path, mend="name the report.json in it") from None
    except OSError as error:
        raise OutputError(f"cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError:
        raise OutputError("is not text, so not a report", where=path) from None


def _parse(text: str, where: object) -> dict[str, Any]:
    def constant(name: str) -> float:
        raise ValueError(f"{name} is not a number that a record may hold")

    def real(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else constant(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
        return found

    try:
        raw = json.loads(text, parse_constant=constant, parse_float=real, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        cut = "cut off" if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg else "not JSON"
        raise OutputError(f"is {cut} at line {error.lineno}", where=where, mend="run again") from None
    except (ValueError, RecursionError) as error:
        raise OutputError(f"is not a report: {error}", where=where) from None
    if not isinstance(raw, dict) or type(raw.get("schema")) is not int:
        raise OutputError("is not a report: it has no schema version", where=where)
    return raw


def _upgrade(
    raw: dict[str, Any], where: object, upgraders: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
) -> dict[str, Any]:
    version = raw["schema"]
    if version > SCHEMA:
        raise OutputError(
            f"written by a newer compressor (record version {version}, this one reads up to {SCHEMA})",
            where=where,
            mend="upgrade",
        )
    while version < SCHEMA:
        if version not in upgraders:
            raise OutputError(f"unknown record version {version}", where=where)
        raw = upgraders[version](raw)
        version += 1
    return raw


def _validate(raw: dict[str, Any], where: object, kind: type[Record]) -> Record:
    from pydantic import ValidationError

    try:
        record: Record = _adapter(kind).validate_json(json.dumps(raw), strict=True)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise OutputError(f"{key}: {first['msg'].lower()}", where=where, mend="it was edited; run again") from None


def _unknown(raw: Any, known: Any, key: str) -> Iterator[str]:
    """Keys of a file that the record does not have."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for name, value in raw.items():
            where = f"{key}.{name}".lstrip(".")
            if name in known:
                yield from _unknown(value, known[name], where)
            else:
                yield where
    elif isinstance(raw, list) and isinstance(known, list):
        for i, (one, other) in enumerate(zip(raw, known, strict=True)):
            yield from _unknown(one, other, f"{key}[{i}]")


def main() -> None:
    """Write the published JSON Schemas anew: ``python -m compressor.store.records``."""
    from compressor.store.runfolder import write_beside

    folder = Path(__file__).parents[1] / "schemas"
    for name, kind in (("report", Report), ("bench", BenchRecord)):
        write_beside(folder / f"{name}.schema.json", json.dumps(report_schema(kind), indent=2) + "\n")


if __name__ == "__main__":
    main()
