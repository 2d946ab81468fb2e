import sys

import pytest

from compressor.errors import DataError
from compressor.task.user_code import is_reference, load_callable


@pytest.mark.parametrize("text", ["package.module:name", "file.py:name", "/a/b.py:name", "C:/a/b.py:name"])
def test_references(text):
    assert is_reference(text)


@pytest.mark.parametrize("text", ["demo", "file.py", ":name", "file.py:", "C:/data.npz", "a:b c"])
def test_what_is_no_reference(text):
    assert not is_reference(text)


def test_module():
    assert load_callable("math:sqrt")(9) == 3


def test_file(tmp_path):
    path = tmp_path / "own.py"
    # A dataclass looks its module up while the file runs.
    path.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: int\ndef f(): return Pair(1).a\n"
    )
    assert load_callable(f"{path}:f")() == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gone.py:f", "gone.py: there is no such file"),
        ("gone_module:f", "gone_module: importing it raised ModuleNotFoundError: No module named 'gone_module'"),
    ],
)
def test_what_is_not_there(reference, message):
    with pytest.raises(DataError) as error:
        load_callable(reference)
    assert str(error.value) == message


def test_file_that_fails(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    with pytest.raises(DataError) as error:
        load_callable(f"{path}:f")
    assert str(error.value) == f"{path}: importing it raised ZeroDivisionError: division by zero"
    assert "compressor_user_broken" not in sys.modules
