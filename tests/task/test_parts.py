import numpy as np
import pytest

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.parts import gather

A, B = np.zeros((4, 2)), np.ones((4, 2))
Y = np.arange(4)
TWO = (TensorSpec("ids", "int64", (None, 2)), TensorSpec("mask", "int64", (None, 2)))


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ("x", {"all"}),
        ("x y", {"all"}),
        ("test_x test_y", {"all"}),
        ("train_x train_y test_x test_y", {"train", "test"}),
        ("x y test_x test_y", {"train", "test"}),
        ("calibration_x calibration_y test_x test_y", {"calibration", "test"}),
        ("train_x calibration_x test_x", {"train", "calibration", "test"}),
    ],
)
def test_parts_by_key(keys, parts):
    found = gather({key: Y if key.endswith("y") else A for key in keys.split()}, None, "d")
    assert found.examples.keys() == parts
    assert all((some.targets is not None) == ("y" in keys.split()[-1]) for some in found.examples.values())
    assert found.notes == ()


def test_inputs_come_in_the_models_order():
    arrays = {"mask": B, "ids": A, "y": Y}
    found = gather(arrays, TWO, "d").examples["all"]
    assert found.inputs[0] is A
    assert found.inputs[1] is B
    assert found.targets is Y


def test_named_inputs_with_parts():
    arrays = {"train_ids": A, "train_mask": A, "test_ids": B, "test_mask": B, "train_y": Y, "test_y": Y}
    assert gather(arrays, TWO, "d").examples["test"].inputs[1] is B


def test_a_single_input_may_go_by_its_name():
    assert gather({"ids": A}, TWO[:1], "d").examples["all"].inputs[0] is A


def test_an_input_whose_name_looks_like_a_part():
    found = gather({"test_signal": A, "y": Y}, (TensorSpec("test_signal", "float32", (None, 2)),), "d")
    assert found.examples["all"].targets is Y


def test_what_is_not_used_is_said():
    assert gather({"x": A, "X": A, "labels": Y}, None, "d").notes == (
        "ignored what is neither an input nor targets: X, labels",
    )


@pytest.mark.parametrize(
    ("keys", "inputs", "message"),
    [
        ("", None, "d: has no x; keys: none"),
        ("a b", TWO, "d: has none of the model's inputs ids, mask; keys: a, b"),
        ("ids y", TWO, "d: lacks the model's input mask; keys: ids, y"),
        ("train_x train_y", None, "d: has train_x but no test_x to score"),
        ("calibration_x", None, "d: has calibration_x but no test_x to score"),
        ("x train_x test_x", None, "d: has x beside train_x; call the examples to score test_x"),
        (
            "train_x train_y test_x test_labels",
            None,
            "d: has targets, but no test_y; keys: test_labels, test_x, train_x, train_y",
        ),
    ],
)
def test_what_does_not_add_up(keys, inputs, message):
    with pytest.raises(DataError) as error:
        gather({key: Y if key.endswith("y") else A for key in keys.split()}, inputs, "d")
    assert str(error.value) == message
