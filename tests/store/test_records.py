import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor.errors import OutputError
from compressor.results import Report
from compressor.store import records
from compressor.store.records import dump_report, load_report, report_schema

SCHEMA_FILE = Path(compressor.__file__).parent / "schemas" / "report.schema.json"
CASES = [
    "estimated", "measured", "control failed", "across one", "missing domain", "mixed", "worse", "nothing measured",
    "synthetic", "no task",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_report_comes_back_equal(case, fictional, tmp_path):
    report = fictional.CASES[case]()
    file = tmp_path / "report.json"
    file.write_text(dump_report(report))
    assert load_report(file) == report
    assert dump_report(load_report(file)) == file.read_text()


def test_the_json_is_readable(fictional):
    text = dump_report(fictional.measured())
    assert text.startswith('{\n  "schema": 2,\n  "tool": "compressor 0.0-fictional",\n')
    assert text.endswith("}\n")
    assert (
        next(line for line in text.splitlines() if '"domains"' in line).strip() == '"domains": ["package-0", "dram"],'
    )
    assert list(json.loads(text)) == list(report_schema()["properties"])


def test_odd_text_survives(fictional, tmp_path):
    report = replace(fictional.measured(), headline='<b> \x1b \u202e \n " é 模 \ud800', command="a\\b")
    file = tmp_path / "report.json"
    file.write_text(dump_report(report))
    # A lone surrogate is no text; what is read back stands for it or the file is refused in one line.
    with pytest.raises(OutputError):
        load_report(file)
    whole = replace(report, headline='<b> \x1b \u202e \n " é 模')
    file.write_text(dump_report(whole))
    assert load_report(file) == whole


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused_with_its_place(bad, fictional):
    report = fictional.measured()
    broken = replace(report, stages=(replace(report.stages[0], elapsed_s=bad),))
    with pytest.raises(OutputError, match=r"^report.stages\[0\].elapsed_s: .* is not a number that a record may hold$"):
        dump_report(broken)


def test_a_value_that_json_lacks_is_refused_with_its_place(fictional):
    report = replace(fictional.measured(), settings={"batch": np.int64(3)})
    with pytest.raises(OutputError, match=r"^report.settings.batch: a record cannot hold a int64$"):
        dump_report(report)


def test_the_schema_in_the_repository_is_current():
    made = json.dumps(report_schema(), indent=2) + "\n"
    assert SCHEMA_FILE.read_text() == made, "write it anew: make schema"


def test_the_schema_forbids_unknown_keys():
    schema = report_schema()
    assert schema["additionalProperties"] is False
    assert all(d["additionalProperties"] is False for d in schema["$defs"].values() if "properties" in d)
    required = {f.name for f in dataclasses.fields(Report) if f.default is dataclasses.MISSING}
    assert set(schema["required"]) == required
    assert set(schema["properties"]) == {f.name for f in dataclasses.fields(Report)}


def refused(path, text):
    path.write_text(text)
    with pytest.raises(OutputError) as caught:
        load_report(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_files_that_are_no_report(fictional, tmp_path):
    file = tmp_path / "report.json"
    with pytest.raises(OutputError, match=r"report\.json: no such report$"):
        load_report(file)
    with pytest.raises(OutputError, match=r": is a folder; name the report\.json in it$"):
        load_report(tmp_path)
    text = dump_report(fictional.no_task())
    for length in (0, 1, 200, len(text) // 2, len(text) - 3):
        message = refused(file, text[:length])
        assert message.startswith("is cut off at line ") or message.startswith("is not JSON at line "), message
        assert message.endswith("; run again")
    assert refused(file, "[1]") == "is not a report: it has no schema version"
    assert refused(file, '{"schema": true}') == "is not a report: it has no schema version"
    assert refused(file, '{"schema": 1, "schema": 1}') == "is not a report: the key 'schema' stands twice"
    assert refused(file, '{"schema": NaN}') == "is not a report: NaN is not a number that a record may hold"
    assert refused(file, '{"schema": 1e999}') == "is not a report: 1e999 is not a number that a record may hold"
    assert refused(file, "[" * 100_000).startswith("is not a report: ")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OutputError, match=r": is not text, so not a report$"):
        load_report(file)


def test_a_newer_record_asks_for_an_upgrade(tmp_path):
    assert refused(tmp_path / "r.json", '{"schema": 3}') == (
        "written by a newer compressor (record version 3, this one reads up to 2); upgrade"
    )
    assert refused(tmp_path / "r.json", '{"schema": 0}') == "unknown record version 0"


def test_an_older_record_goes_through_the_upgraders(fictional, tmp_path, monkeypatch):
    # A version 0 that never was: it called the headline "verdict".
    raw = json.loads(dump_report(fictional.measured()))
    raw["verdict"] = raw.pop("headline")
    raw["schema"] = 0
    file = tmp_path / "old.json"
    file.write_text(json.dumps(raw))

    def upgrade(old):
        new = dict(old)
        new["headline"] = new.pop("verdict")
        return {**new, "schema": 1}

    monkeypatch.setitem(records.UPGRADERS, 0, upgrade)
    assert load_report(file) == fictional.measured()


def test_a_record_of_the_first_version_loads_without_what_came_later(fictional, tmp_path):
    report = replace(fictional.measured(), confusion=None, usage=None)
    raw = json.loads(dump_report(report))
    del raw["confusion"], raw["usage"]
    for measurement in raw["measurements"]:
        del measurement["artifact"]["macs"]
    raw["schema"] = 1
    file = tmp_path / "first.json"
    file.write_text(json.dumps(raw))
    loaded = load_report(file)
    bare = tuple(replace(m, artifact=replace(m.artifact, macs=None)) for m in report.measurements)
    assert loaded == replace(report, measurements=bare)
    assert loaded.schema == 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("measurements", 0, "trials", 3, "cpu_s"), "fast", "measurements[0].trials[3].cpu_s: input should be a valid"),
        (
            ("measurements", 1, "role"),
            "winner",
            "measurements[1].role: input should be 'baseline', 'candidate', 'stage' or 'control'",
        ),
        (("task", "synthetic"), 1, "task.synthetic: input should be a valid boolean"),
        (("measurements", 0, "trials", 0, "block"), 0.5, "measurements[0].trials[0].block: input should be a valid"),
        (("headline",), None, "headline: input should be a valid string"),
        (("model", "colour"), "blue", "unknown key model.colour; it was not written by this program"),
        (("measurements", 2, "latency", "p95_s"), 0.1, "unknown key measurements[2].latency.p95_s; it was not"),
    ],
)
def test_wrong_types_and_unknown_keys_are_named(path, value, message, fictional, tmp_path):
    raw = json.loads(dump_report(fictional.measured()))
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert refused(tmp_path / "r.json", json.dumps(raw)).startswith(message)


def test_a_missing_key_is_named(fictional, tmp_path):
    raw = json.loads(dump_report(fictional.measured()))
    del raw["measurements"][0]["steady"]
    assert refused(tmp_path / "r.json", json.dumps(raw)).startswith("measurements[0].steady: ")
