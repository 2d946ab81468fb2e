import numpy as np
import pytest

from compressor.errors import DataError
from compressor.results import TensorSpec
from compressor.task import fit
from compressor.task.fit import check_input, first_not_finite, fitted


def spec(dtype, *shape):
    return TensorSpec("input", dtype, (None, *shape))


@pytest.mark.parametrize(
    ("x", "model", "dtype", "note"),
    [
        (np.array([[0, 255]], np.uint8), spec("float32", 2), "float32", "x: uint8 scaled by 1/255 to float32"),
        (np.array([[0, 255]], np.uint8), None, "float32", "x: uint8 scaled by 1/255 to float32"),
        (np.array([[0, 255]], np.uint8), spec("float16", 2), "float16", "x: uint8 scaled by 1/255 to float16"),
    ],
)
def test_bytes_become_floats_up_to_one(x, model, dtype, note):
    check_input("x", x, model, "d")
    made, said = fitted("x", x, model)
    assert (made.tolist(), made.dtype.name, said) == ([[0.0, 1.0]], dtype, note)


def test_every_level_is_the_nearest_float():
    made, _ = fitted("x", np.arange(256, dtype=np.uint8), None)
    assert np.array_equal(made, np.arange(256, dtype=np.float32) / np.float32(255))


@pytest.mark.parametrize(("given", "wanted"), [("float64", "float32"), ("int64", "float32"), ("int64", "int32")])
def test_casts_are_said(given, wanted):
    x = np.array([[3, 4]], given)
    check_input("x", x, spec(wanted, 2), "d")
    made, said = fitted("x", x, spec(wanted, 2))
    assert (made.tolist(), made.dtype.name, said) == ([[3, 4]], wanted, f"x: {given} cast to {wanted}")


@pytest.mark.parametrize("model", [spec("float32", 2), None])
def test_what_fits_is_not_copied(model):
    x = np.zeros((3, 2), np.float32)
    made, said = fitted("x", x, model)
    assert made is x
    assert said is None


def test_bytes_for_a_byte_model_stay_bytes():
    x = np.zeros((3, 2), np.uint8)
    assert fitted("x", x, spec("uint8", 2))[0] is x


@pytest.mark.parametrize(
    ("x", "model", "message"),
    [
        (np.array([["a"]]), None, "d: x is text, not numbers"),
        (np.array([[1j]]), None, "d: x is complex, not numbers"),
        (np.array(3.0), None, "d: x is a single number, not one row per example"),
        (np.zeros((2, 3)), spec("float32", 4), "d: x is (N, 3), but the model's input 'input' is (N, 4)"),
        (
            np.zeros((2, 8, 8)),
            spec("float32", 1, 8, None),
            "d: x is (N, 8, 8), but the model's input 'input' is (N, 1, 8, ?)",
        ),
        (np.array([[0.5]]), spec("int64", 1), "d: x is float64, but the model's input 'input' is int64"),
        (np.array([[300]]), spec("int8", 1), "d: x holds 300..300, too large for the model's int8"),
        (np.array([[1e6]]), spec("float16", 1), "d: x holds 1e+06..1e+06, too large for the model's float16"),
        (np.array([[1.0]]), spec("bfloat16", 1), "d: the model's input 'input' is bfloat16, which NumPy lacks"),
    ],
)
def test_what_does_not_fit(x, model, message):
    with pytest.raises(DataError) as error:
        check_input("x", x, model, "d")
    assert str(error.value) == message


@pytest.mark.parametrize("row", [0, 6, 7, 99])
def test_first_row_that_is_not_finite(monkeypatch, row):
    monkeypatch.setattr(fit, "_CHUNK_BYTES", 7 * 4 * 8)  # 7 rows at a time
    x = np.zeros((100, 2, 2))
    x[row, 1, 0] = np.nan
    x[99] = np.inf
    assert first_not_finite(x) == row


def test_finite():
    assert first_not_finite(np.zeros((5, 2))) is None
    assert first_not_finite(np.zeros((0, 2))) is None
    assert first_not_finite(np.arange(5)) is None
