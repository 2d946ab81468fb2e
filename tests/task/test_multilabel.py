"""Labels of which a text may have several."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compressor.errors import DataError
from compressor.task.multilabel import marked


@pytest.fixture
def folder(tmp_path):
    names = {"0": "Joy", "1": "fear", "2": "3"}
    config = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_switches_and_names(folder):
    found = marked([[0, 1, 1], [0.0, 0.0, 1.0], np.array([1, 0, 0]), ["joy", "3"], []], folder, "x")
    assert found.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2, "holds 2 in row 1 (counted from 0), and the model gives several labels per text"),
        ("joy", "holds 'joy' in row 1 (counted from 0), and the model gives several labels per text"),
        (["anger"], "label 'anger' in row 1 (counted from 0) is none of the model's: Joy, fear, 3"),
        ([0, 1], "label 0 in row 1 (counted from 0) is none of the model's: Joy, fear, 3"),
    ],
)
def test_what_is_no_such_list(folder, value, says):
    with pytest.raises(DataError) as caught:
        marked([[0, 0, 1], value], folder, "x")
    assert (caught.value.where, caught.value.what) == ("x", says)
