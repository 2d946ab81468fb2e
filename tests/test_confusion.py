import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compressor.confusion import SHOWN, confusion
from compressor.task.base import Examples


def scores(classes, count=4):
    return np.eye(count, dtype=np.float32)[classes]


def pictures(count, channels=1, side=12):
    return np.random.default_rng(0).random((count, channels, side, side), dtype=np.float32)


def test_it_counts_what_broke_mended_and_moved():
    truth = np.array([0, 0, 1, 1, 2, 3])
    before, after = scores([0, 0, 1, 2, 1, 3]), scores([0, 1, 1, 1, 3, 3])
    found = confusion("old", "new", before, after, Examples((pictures(6),), truth), class_names=["a", "b", "c"])
    assert (found.broken, found.mended, found.moved) == (1, 1, 1)
    told = [(one.name, one.examples, one.right_before, one.right_after, one.broken) for one in found.classes]
    assert told == [("a", 2, 2, 1, 1), ("b", 2, 1, 2, 0), ("c", 1, 0, 0, 0), ("3", 1, 1, 1, 0)]
    assert [(flip.index, flip.target, flip.before, flip.after) for flip in found.flips] == [
        (1, "a", "a", "b"),
        (3, "b", "c", "b"),
        (4, "c", "b", "3"),
    ]


def test_pictures_are_kept_small_and_as_they_are():
    truth = np.array([0, 1])
    inputs = np.zeros((2, 3, 200, 100), np.uint8)
    inputs[:, 0] = 255
    found = confusion("a", "b", scores([0, 1]), scores([1, 0]), Examples((inputs,), truth))
    picture = Image.open(io.BytesIO(base64.b64decode(found.flips[0].picture)))
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((28, 56), "RGB", (255, 0, 0))


def test_texts_stand_for_examples_that_are_texts():
    ids = np.zeros((2, 16), np.int64)
    examples = Examples((ids,), np.array([0, 1]), ["good " * 100, "bad"])
    found = confusion("a", "b", scores([0, 1]), scores([1, 1]), examples)
    assert found.flips[0].text == ("good " * 100)[:199] + "…"
    assert found.flips[0].picture == ""


def test_rows_of_a_table_are_told_by_their_columns():
    rows = Examples((np.array([[1.5, 20], [3, 1e9]]),), np.array([0, 1]))
    found = confusion("a", "b", scores([0, 1]), scores([1, 1]), rows, columns=("size", "age"))
    assert [flip.text for flip in found.flips] == ["size=1.5, age=20"]
    wide = Examples((np.zeros((2, 5000)),), np.array([0, 1]))
    found = confusion("a", "b", scores([0, 1]), scores([1, 1]), wide, columns=[f"c{i}" for i in range(5000)])
    assert len(found.flips[0].text) == 200


def test_two_classes_may_be_one_logit_or_one_probability():
    truth = np.array([0, 1, 1])
    rows = Examples((np.zeros((3, 2)),), truth)
    logits = confusion("a", "b", np.array([-2.0, 3.0, 1.0]), np.array([[-2.0], [3.0], [-1.0]]), rows)
    shares = confusion("a", "b", np.array([0.2, 0.9, 0.6]), np.array([0.2, 0.9, 0.4]), rows)
    assert (logits.broken, shares.broken) == (1, 1)


def test_what_is_no_classification_has_no_confusion():
    inputs = (np.zeros((2, 3)),)
    ones = scores([0, 1])
    assert confusion("a", "b", ones, ones, Examples(inputs, None)) is None
    assert confusion("a", "b", ones, ones, Examples(inputs, np.array([0.5, 1.5]))) is None
    assert confusion("a", "b", ones, ones, Examples(inputs, np.zeros((2, 4), np.int64))) is None
    assert confusion("a", "b", np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), Examples(inputs, np.array([0, 1]))) is None
    assert confusion("a", "b", ones, ones, Examples(inputs, np.array([0, 5000]))) is None
    assert confusion("a", "b", ones, ones, Examples(inputs, np.array([0, -1]))) is None
    assert confusion("a", "b", ones, ones[:1], Examples(inputs, np.array([0, 1]))) is None


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((1, 8, 8), True),
        ((3, 8, 8), True),
        ((2, 8, 8), False),
        ((1, 7, 99), False),
        ((1, 99, 7), False),
        ((9, 9), False),
    ],
)
def test_what_is_no_picture_is_not_drawn(shape, shown):
    examples = Examples((np.ones((2, *shape), np.float32),), np.array([0, 1]))
    found = confusion("a", "b", scores([0, 1]), scores([1, 1]), examples)
    assert bool(found.flips[0].picture) == shown


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=80))
def test_the_counts_add_up(rows):
    truth, old, new = (np.array(column) for column in zip(*rows, strict=True))
    found = confusion("a", "b", scores(old), scores(new), Examples((np.zeros((len(rows), 2)),), truth))
    assert sum(one.examples for one in found.classes) == len(rows)
    assert sum(one.right_before for one in found.classes) == int((old == truth).sum())
    assert sum(one.right_after for one in found.classes) == int((new == truth).sum())
    assert found.broken == sum(one.broken for one in found.classes)
    assert found.broken + found.mended + found.moved == int((old != new).sum())
    assert len(found.flips) == min(SHOWN, int((old != new).sum()))
    if found.broken and found.mended:
        sides = {(flip.before == flip.target, flip.after == flip.target) for flip in found.flips}
        assert {(True, False), (False, True)} <= sides
