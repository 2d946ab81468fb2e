import numpy as np
import pytest

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task.open import open_task
from compressor.task.synthetic import FREE_AXIS, TOKEN_IDS, synthetic_task, with_reference

WEIGHTS = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
PICTURE = (TensorSpec("input", "float32", (None, 3)),)


class Counted:
    """A linear model that counts the examples it sees."""

    def __init__(self):
        self.examples = 0

    def __call__(self, inputs):
        self.examples += len(inputs[0])
        return inputs[0] @ WEIGHTS


def test_the_reference_is_run_once_and_agrees_with_itself():
    reference = Counted()
    task = synthetic_task(PICTURE, reference, examples=300)
    assert reference.examples == 300
    task.test()
    assert reference.examples == 300
    assert task.evaluate(lambda inputs: inputs[0] @ WEIGHTS).value == 1.0
    assert task.evaluate(lambda inputs: inputs[0] @ -WEIGHTS).value < 0.1
    assert reference.examples == 300


def test_summary_says_synthetic():
    task = synthetic_task(PICTURE, Counted(), examples=50)
    assert task.summary.synthetic
    assert (task.summary.name, task.summary.metric) == ("synthetic", "agreement with the original")
    assert (task.summary.calibration_examples, task.summary.test_examples) == (50, 50)
    assert task.training() is None
    assert task.notes == ("input drawn at random: float32 (3,)",)


def test_the_seed_decides():
    first, same, other = (synthetic_task(PICTURE, Counted(), seed=seed).test().inputs[0] for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "dtype", "low", "high"),
    [
        ("input_ids", "int64", 0, TOKEN_IDS - 1),
        ("attention_mask", "int64", 1, 1),
        ("attention_mask", "bool", 1, 1),
        ("token_type_ids", "int64", 0, 0),
        ("position_ids", "int64", 0, FREE_AXIS - 1),
        ("pixels", "uint8", 0, 255),
        ("flags", "bool", 0, 1),
    ],
)
def test_ranges_by_type_and_name(name, dtype, low, high):
    inputs = (TensorSpec("x", "float32", (None, 2)), TensorSpec(name, dtype, (None, None)))
    drawn = synthetic_task(inputs, lambda given: given[0], examples=400).test().inputs[1]
    assert (drawn.shape, drawn.dtype.name) == ((400, FREE_AXIS), dtype)
    assert (drawn.min(), drawn.max()) == (low, high)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_standard_normal(dtype):
    spec = (TensorSpec("input", dtype, (1, 3, None)),)  # a fixed batch axis does not decide how many are drawn
    drawn = synthetic_task(spec, lambda inputs: inputs[0][:, 0], examples=200).test().inputs[0]
    assert (drawn.shape, drawn.dtype.name) == ((200, 3, FREE_AXIS), dtype)
    assert abs(float(drawn.mean(dtype=np.float64))) < 0.05
    assert abs(float(drawn.std(dtype=np.float64)) - 1) < 0.05


def test_calibration_that_is_also_test_is_taken_out():
    spec = (TensorSpec("pair", "int64", (None, 1)),)
    task = synthetic_task(spec, lambda inputs: inputs[0].astype(float) + 1, examples=100)
    assert not set(task.calibration().inputs[0][:, 0]) & set(task.test().inputs[0][:, 0])
    kept = len(task.calibration())
    assert 2 <= kept < 100
    assert task.summary.calibration_examples == kept
    assert f"took out {100 - kept} of 100 calibration examples that are also test examples" in task.notes


@pytest.mark.parametrize(
    ("inputs", "reference", "examples", "message"),
    [
        (
            (TensorSpec("flag", "bool", (None, 1)),),
            Counted(),
            64,
            "synthetic data: the model's inputs take so few values that calibration and test examples are the same; "
            "give data",
        ),
        (
            (TensorSpec("x", "complex64", (None, 1)),),
            Counted(),
            64,
            "x: inputs of type complex64 cannot be drawn; give data",
        ),
        ((), Counted(), 64, "synthetic data: the model has no inputs to draw"),
        (PICTURE, Counted(), 1, "examples: is 1; at least 2 are needed"),
        (
            (TensorSpec("input", "float32", (None, 5)),),
            lambda inputs: [][3],
            64,
            "synthetic data: the original model fails on these inputs (IndexError: list index out of range); "
            "give data that it was made for",
        ),
        (
            PICTURE,
            lambda inputs: inputs[0] * np.float32(np.nan),
            64,
            "synthetic data: the original model's output for test example 0 is NaN or infinite",
        ),
    ],
)
def test_what_cannot_be_drawn(inputs, reference, examples, message):
    with pytest.raises(DataError) as error:
        synthetic_task(inputs, reference, examples=examples)
    assert str(error.value) == message


def test_real_inputs_without_targets_are_scored_against_the_original(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((30, 3)))
    bare, reference = open_task(str(path), inputs=PICTURE), Counted()
    task = with_reference(bare, reference)
    assert reference.examples == len(task.test()) == 24
    assert task.evaluate(lambda inputs: inputs[0] @ WEIGHTS).value == 1.0
    assert (task.summary.name, task.summary.metric) == ("x.npy", "agreement with the original")
    assert not task.summary.synthetic
    assert task.notes == bare.notes
    assert np.array_equal(task.calibration().inputs[0], bare.calibration().inputs[0])
