"""Records from CSV, JSON lines, Parquet, Arrow and saved data sets."""

from __future__ import annotations

import json

import pytest

from compressor.errors import DataError
from compressor.model.hf_load import quiet_transformers
from compressor.task.records import is_records, read_records

ROWS = {"text": ["a, b", "NA", 'say "x"'], "label": [0, 1, 1]}
CSV = 'text,label\n"a, b",0\nNA,1\n"say ""x""",1\n'


def error_of(path) -> str:
    with pytest.raises(DataError) as caught:
        read_records(path)
    return str(caught.value)


def test_csv_keeps_every_text_as_it_stands(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(CSV, encoding="utf-8-sig")
    assert read_records(path) == {"all": {"text": ROWS["text"], "label": ["0", "1", "1"]}}


def test_json_lines_and_json_list(tmp_path):
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "d.json").write_text(json.dumps(rows))
    assert read_records(tmp_path / "d.jsonl") == read_records(tmp_path / "d.json") == {"all": ROWS}


def test_parquet_arrow_and_saved_data_sets(tmp_path):
    with quiet_transformers():
        import datasets

        saved = datasets.Dataset.from_dict(ROWS)
        saved.to_parquet(tmp_path / "d.parquet")
        saved.save_to_disk(str(tmp_path / "one"))
        parts = {"train": saved, "validation": saved, "test": datasets.Dataset.from_dict({**ROWS, "label": [-1] * 3})}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    assert read_records(tmp_path / "d.parquet") == {"all": ROWS}
    assert read_records(next((tmp_path / "one").glob("*.arrow"))) == {"all": ROWS}
    assert read_records(tmp_path / "one") == {"all": ROWS}
    # The labels of the test part are withheld, so the validation part is the test.
    assert read_records(tmp_path / "parts") == {"train": ROWS, "test": ROWS}


def test_folder_of_files_by_part(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / "data" / f"{name}.csv").write_text(CSV)
    found = read_records(tmp_path)
    assert sorted(found) == ["test", "train"]
    assert len(found["train"]["text"]) == 6
    (tmp_path / "data" / "train-00001-of-00002.csv").write_text("text,other\na,b\n")
    assert error_of(tmp_path) == (
        f"{tmp_path / 'data' / 'train-00001-of-00002.csv'}: has other columns than train-00000-of-00002.csv"
    )


def test_what_are_records(tmp_path):
    assert is_records(tmp_path / "x.jsonl")
    assert not is_records(tmp_path / "x.npz")
    assert not is_records(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("d.csv", "text,label\n", "has no rows"),
        ("d.csv", "text,text\na,b\n", "has two columns of one name"),
        ("d.jsonl", '{"a": 1}\n{"a": \n', "line 2 is not JSON (Expecting value: line 2 column 1 (char 6))"),
        ("d.jsonl", '{"a": 1}\n{"b": 1}\n', "line 2 has not the keys of the first"),
        ("d.jsonl", "null\n", "line 1 is a NoneType, not an object with named values"),
        ("d.json", "[" * 100_000, "it is not JSON (maximum recursion depth exceeded"),
        ("d.csv", "text;label\na;b\n", "has one column, 'text;label'; separate them by commas"),
        ("d.json", "[1]", "row 0 (counted from 0) is a int, not an object with named values"),
    ],
)
def test_bad_files(name, content, what, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    found = error_of(path)
    assert found.startswith(f"{path}: {what.partition('(Exp')[0]}")


def test_strings_may_hold_separators_of_lines(tmp_path):
    path = tmp_path / "d.jsonl"
    rows = [{"text": "a\u2028b\x85c"}, {"text": "d"}]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), newline="")
    assert read_records(path) == {"all": {"text": ["a\u2028b\x85c", "d"]}}


def test_splits_of_other_names_and_grades_that_are_withheld(tmp_path):
    with quiet_transformers():
        import datasets

        saved = datasets.Dataset.from_dict(ROWS)
        withheld = datasets.Dataset.from_dict({**ROWS, "label": [-1.0] * 3})
        parts = {"train_a": saved, "validation_matched": saved, "validation_other": saved, "test": withheld}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
        datasets.DatasetDict({"one": saved, "two": saved}).save_to_disk(str(tmp_path / "odd"))
    found = read_records(tmp_path / "parts")
    assert {part: len(some["text"]) for part, some in found.items()} == {"train": 3, "test": 6}
    assert (
        error_of(tmp_path / "odd")
        == f"{tmp_path / 'odd'}: its splits are one, two; name them train, validation and test"
    )


def test_row_with_a_comma_too_many(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label\na,0\nb, c,1\n")
    assert error_of(path) == (
        f"{path}, 3 lines: row 1 (counted from 0) has 3 values and the header 2; put texts with commas in double "
        'quotes, and double the quotes in them ("")'
    )


def test_damaged_binary_files(tmp_path):
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1no")
    assert error_of(path).startswith(f"{path}: is not a readable .parquet file (")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{")
    assert error_of(tmp_path / "saved").startswith(f"{tmp_path / 'saved'}: is not a readable saved data set (")
