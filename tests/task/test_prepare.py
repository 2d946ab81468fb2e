"""Splits, overlap and targets: no row is ever both calibrated on and scored."""

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.base import Examples
from compressor.task.parts import Parts
from compressor.task.prepare import Needs, prepare

RANDOM = np.random.default_rng(5)


def needs(**changed):
    given = {"metric": None, "inputs": None, "outputs": None, "seed": 0, "calibration_limit": 512, "test_limit": None}
    return Needs(**{**given, **changed})


def rows(count):
    return RANDOM.standard_normal((count, 3)).astype(np.float32)


def parts(**given):
    return Parts({part: Examples((x,), y) for part, (x, y) in given.items()}, "d")


def keys(examples):
    return {row.tobytes() for row in examples.inputs[0]}


def message_of(found, **changed):
    with pytest.raises(DataError) as error:
        prepare(found, needs(**changed), "d")
    return str(error.value)


@pytest.mark.parametrize(
    ("count", "limit", "calibration"), [(4, 512, 2), (9, 512, 2), (10, 512, 2), (100, 512, 20), (100, 7, 7)]
)
def test_one_in_five_calibrates(count, limit, calibration):
    x = rows(count)
    task = prepare(parts(all=(x, np.arange(count) % 2)), needs(calibration_limit=limit), "d")
    assert (len(task.calibration()), len(task.test())) == (calibration, count - calibration)
    assert (task.summary.calibration_examples, task.summary.test_examples) == (calibration, count - calibration)
    assert keys(task.calibration()) | keys(task.test()) == {row.tobytes() for row in x}


def test_targets_stay_with_their_rows():
    x, y = rows(50), np.arange(50) % 5
    label = {row.tobytes(): int(k) for row, k in zip(x, y, strict=True)}
    task = prepare(parts(all=(x, y)), needs(), "d")
    for some in (task.calibration(), task.test()):
        assert [label[row.tobytes()] for row in some.inputs[0]] == some.targets.tolist()
    assert np.bincount(task.calibration().targets).tolist() == [2] * 5
    assert task.notes == ("no split given: 10 examples to calibrate and 40 to score, drawn each class in proportion",)


def test_a_split_that_cannot_keep_proportions_says_so():
    task = prepare(parts(all=(rows(10), np.arange(10))), needs(), "d")
    assert task.notes == ("no split given: 2 examples to calibrate and 8 to score, drawn without regard to class",)
    task = prepare(parts(all=(rows(10), rows(10)[:, 0])), needs(), "d")
    assert task.notes == ("no split given: 2 examples to calibrate and 8 to score, drawn at random",)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=20, max_size=80), st.integers(0, 99))
def test_calibration_and_test_never_overlap(values, seed):
    x = np.array(values, np.float32)[:, None]
    try:
        task = prepare(parts(all=(x, np.arange(len(x)) % 2)), needs(seed=seed), "d")
    except DataError:  # too few left; test_nothing_left_to_calibrate_on
        reject()
    assert not keys(task.calibration()) & keys(task.test())
    assert len(task.calibration()) >= 2


def test_overlap_is_taken_out_of_training_and_calibration():
    train, test = rows(30), rows(8)
    train[[3, 17]] = test[[0, 5]]
    task = prepare(parts(train=(train, np.arange(30) % 2), test=(test, np.arange(8) % 2)), needs(), "d")
    assert len(task.training()) == 28
    assert len(task.test()) == 8
    assert not keys(task.training()) & keys(task.test())
    assert keys(task.calibration()) == keys(task.training())
    assert task.training().targets.tolist() == np.delete(np.arange(30) % 2, [3, 17]).tolist()
    assert task.notes == ("took out 2 of 30 training examples whose inputs are byte-equal to a test example's",)


def test_overlap_is_taken_out_of_a_calibration_part():
    train, calibration, test = rows(9), rows(5), rows(4)
    calibration[1] = test[2]
    found = parts(train=(train, None), calibration=(calibration, None), test=(test, None))
    task = prepare(found, needs(), "d")
    assert (len(task.training()), len(task.calibration())) == (9, 4)
    assert "took out 1 of 5 calibration examples whose inputs are byte-equal to a test example's" in task.notes


def test_nothing_left_to_calibrate_on():
    x, y = rows(6), np.arange(6) % 2
    assert message_of(parts(calibration=(x, y), test=(x, y))) == (
        "d: 6 of 6 calibration examples are also test examples, which leaves 0; "
        "give at least 2 calibration examples that are not scored"
    )
    assert message_of(parts(all=(np.ones((20, 2)), np.arange(20) % 2))) == (
        "d: 4 of 4 calibration examples are also test examples, which leaves 0; "
        "give at least 2 calibration examples that are not scored"
    )


def test_rows_that_the_cast_makes_equal_overlap():
    train = np.arange(1.0, 21.0).reshape(10, 2)
    model = (TensorSpec("x", "float32", (None, 2)),)
    found = parts(train=(train, None), test=(train[:2] + 1e-12, None))
    assert len(prepare(found, needs(), "d").training()) == 10
    assert len(prepare(found, needs(inputs=model), "d").training()) == 8


def test_bytes_of_text():
    y = np.array(["b", "a", "b", "a"], "S1")
    assert prepare(parts(train=(rows(4), y), test=(rows(4), y)), needs(), "d").test().targets.tolist() == [1, 0, 1, 0]


def test_the_official_test_part_is_not_copied():
    test = rows(20)
    task = prepare(parts(train=(rows(30), None), test=(test, None)), needs(), "d")
    assert task.test().inputs[0] is test


def test_calibration_is_drawn_from_training_in_proportion():
    found = parts(train=(rows(40), np.repeat([0, 1], 20)), test=(rows(10), np.arange(10) % 2))
    task = prepare(found, needs(calibration_limit=10), "d")
    assert np.bincount(task.calibration().targets).tolist() == [5, 5]
    assert len(task.training()) == 40
    other = prepare(found, needs(calibration_limit=10, seed=1), "d")
    assert keys(task.calibration()) != keys(other.calibration())


def test_test_limit_takes_a_subset_in_proportion():
    found = parts(train=(rows(10), np.arange(10) % 2), test=(rows(40), np.repeat([0, 1], [30, 10])))
    task = prepare(found, needs(test_limit=8), "d")
    assert np.bincount(task.test().targets).tolist() == [6, 2]
    assert keys(task.test()) <= {row.tobytes() for row in found.examples["test"].inputs[0]}
    assert task.notes == ("scored on 8 of 40 test examples, as asked",)
    assert len(prepare(found, needs(test_limit=400), "d").test()) == 40


def test_text_labels_are_numbered_over_all_parts():
    found = parts(train=(rows(4), np.array(["b", "c", "b", "c"])), test=(rows(3), np.array(["c", "a", "b"])))
    task = prepare(found, needs(), "d")
    assert task.training().targets.tolist() == [1, 2, 1, 2]
    assert task.test().targets.tolist() == [2, 0, 1]
    assert task.summary.metric == "accuracy"
    assert task.notes == ("text labels numbered in sorted order: 0=a, 1=b, 2=c",)


@pytest.mark.parametrize(
    ("y", "dtype"),
    [(np.array([[0], [1], [1], [0]], np.uint8), "int64"), (np.array([True, False, True, False]), "int64")],
)
def test_labels_become_whole_numbers_in_one_axis(y, dtype):
    task = prepare(parts(train=(rows(4), y), test=(rows(4), y)), needs(), "d")
    assert (task.training().targets.shape, task.training().targets.dtype.name) == ((4,), dtype)


def test_whole_numbers_may_be_regressed():
    output = (TensorSpec("o", "float32", (None, 1)),)
    task = prepare(parts(all=(rows(10), np.arange(10))), needs(metric="mae", outputs=output), "d")
    assert task.test().targets.dtype == np.float32


def test_which_of_several_outputs_is_scored_is_told():
    outputs = (TensorSpec("o", "float32", (None, 2)), TensorSpec("p", "float32", (None, 7)))
    found = parts(all=(rows(10), np.arange(10) % 2))
    assert "the first of the model's 2 outputs is scored" in prepare(found, needs(outputs=outputs), "d").notes
    assert not any("outputs" in note for note in prepare(found, needs(outputs=outputs[:1]), "d").notes)


def test_agreement_can_be_asked_for_and_keeps_training_targets():
    found = parts(train=(rows(10), np.arange(10) % 2), test=(rows(4), np.arange(4) % 2))
    task = prepare(found, needs(metric="agreement"), "d")
    assert task.test().targets is None
    assert task.training().targets is not None
    assert task.summary.metric == "agreement with the original"


def test_several_inputs():
    two = (TensorSpec("ids", "int64", (None, 3)), TensorSpec("mask", "int64", (None, 3)))
    ids, mask = RANDOM.integers(0, 9**9, (20, 3)), np.ones((20, 3), np.int32)
    task = prepare(Parts({"all": Examples((ids, mask), np.arange(20) % 2)}, "d"), needs(inputs=two), "d")
    assert [x.dtype.name for x in task.test().inputs] == ["int64", "int64"]
    assert "mask: int32 cast to int64" in task.notes
    assert message_of(Parts({"all": Examples((ids,), None)}, "d"), inputs=two) == (
        "d: has 1 input, but the model takes ids, mask; save one array per input in a .npz file, under these names"
    )
    short = Parts({"all": Examples((ids, mask[:-1]), None)}, "d")
    assert message_of(short, inputs=two) == ("d: one row per example is needed, and ids has 20 rows, mask has 19 rows")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(3), "d: y is a single number, not one target per example"),
        (np.zeros(8, complex), "d: y is complex128, neither numbers nor text"),
    ],
)
def test_targets_of_no_use(y, message):
    assert message_of(parts(all=(rows(8), y))) == message
