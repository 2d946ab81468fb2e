import numpy as np
import pytest

from compressor.errors import DataError
from compressor.task.table import read_csv


def table(tmp_path, text):
    path = tmp_path / "d.csv"
    path.write_text(text)
    return path


def message_of(path, target=None):
    with pytest.raises(DataError) as error:
        read_csv(path, target, "d.csv")
    return str(error.value)


@pytest.mark.parametrize(
    ("header", "target", "chosen"),
    [
        ("a,target,b", None, "target"),
        ("a,Label,b", None, "Label"),
        ("class,a,b", None, "class"),
        ("y,a,label", None, "label"),
        ("a,b,c", None, "c"),
        ("a,target,b", "a", "a"),
    ],
)
def test_target_column(tmp_path, header, target, chosen):
    parts = read_csv(table(tmp_path, f"{header}\n1,2,3\n4,5,6\n"), target, "d.csv")
    some, at = parts.examples["all"], header.split(",").index(chosen)
    assert parts.name == f"d.csv (target: {chosen})"
    assert some.targets.tolist() == [1 + at, 4 + at]
    assert some.inputs[0].tolist() == np.delete([[1.0, 2, 3], [4, 5, 6]], at, axis=1).tolist()


def test_kinds_of_target(tmp_path):
    def dtype_of(a, b):
        return read_csv(table(tmp_path, f"x,y\n1,{a}\n2,{b}\n"), None, "d").examples["all"].targets.dtype.kind

    assert [dtype_of(1, 2), dtype_of(1.5, 2), dtype_of("cat", "dog"), dtype_of("True", "False")] == ["i", "f", "U", "b"]


def test_text_columns_are_named(tmp_path):
    path = table(tmp_path, "city,size,name,y\nRome,1,a,0\nOslo,2,b,1\n")
    assert message_of(path) == (
        f"{path}: these columns are not numeric: city, name; encode them as numbers or leave them out"
    )


def test_missing_values(tmp_path):
    path = table(tmp_path, "a,y\n1,0\n,1\n3,1\n")
    assert message_of(path) == f"{path}: column a has no value in row 1 (counted from 0)"
    path = table(tmp_path, "a,y\n1,cat\n2,dog\n3,\n")
    assert message_of(path) == f"{path}: column y has no value in row 2 (counted from 0)"


def test_unknown_target(tmp_path):
    path = table(tmp_path, "size,kind\n1,2\n")
    assert message_of(path, "kinds") == f"{path}: has no column 'kinds'; did you mean 'kind'? known: kind, size"


def test_one_column(tmp_path):
    path = table(tmp_path, "a;b\n1;2\n")
    assert message_of(path) == f"{path}: has one column; inputs and a target are needed; separate them by commas"


def test_no_rows_at_all(tmp_path):
    path = table(tmp_path, "")
    assert message_of(path) == f"{path}: is not a readable CSV file (No columns to parse from file)"
    assert message_of(table(tmp_path, "a,y\n")) == f"{path}: has no rows"


def test_a_column_twice_or_without_a_name(tmp_path):
    path = table(tmp_path, "y,a,y\n1,2,3\n")
    assert message_of(path) == f"{path}: has two columns of the name 'y'; leave one of them out"
    path = table(tmp_path, ",a,y\n0,2,3\n1,3,4\n")
    assert message_of(path) == (
        f"{path}: its column 0 (counted from 0) has no name; name it; if pandas wrote its row numbers there, leave "
        "them out: to_csv(…, index=False)"
    )


def test_words_that_pandas_takes_for_nothing_are_classes(tmp_path):
    path = table(tmp_path, "a,y\n1,None\n2,NA\n3,cat\n")
    assert read_csv(path, None, "d").examples["all"].targets.tolist() == ["None", "NA", "cat"]
    path = table(tmp_path, "a,y\n1,1.5\n2,NA\n")
    assert message_of(path) == f"{path}: column y has no value in row 1 (counted from 0)"


def test_byte_order_mark_blank_lines_and_spaces(tmp_path):
    path = table(tmp_path, "\ufeff\nlabel, b\n\n0, 2\n1, 3\n")
    found = read_csv(path, None, "d.csv")
    assert (found.name, found.columns) == ("d.csv (target: label)", (" b",))
    path = table(tmp_path, "a, label,b\n0, 2,1\n1, 3,5\n")
    assert read_csv(path, None, "d.csv").name == "d.csv (target:  label)"


def test_rows_longer_than_the_header(tmp_path):
    path = table(tmp_path, "a,y\n0,1,2\n1,3,4\n")
    assert message_of(path).startswith(f"{path}: is not a readable CSV file (Length of header or names does not match")
    path = table(tmp_path, "a,y\n0,1\n1,3,4\n")
    assert "Expected 2 fields in line 3, saw 3" in message_of(path)


def test_not_text(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"a,y\n\xff\xfe,1\n")
    assert message_of(path).startswith(f"{path}: is not a readable CSV file ('utf-8' codec can't decode")
