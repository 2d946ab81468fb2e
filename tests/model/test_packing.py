from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressor.errors import MethodError, ModelError
from compressor.model.checkpoint import ITEM_BYTES
from compressor.model.packing import Format, dequantize, is_ours, parts, quantize

FORMATS = [
    Format(8, None, True),
    *(Format(4, block, symmetric) for block in (32, 128) for symmetric in (False, True)),
]


def bound(weight: np.ndarray, form: Format) -> np.ndarray:
    """Half a level of each weight's own scale."""
    scale = quantize(weight, form)[1].astype(np.float64)
    if form.block_size is None:
        return scale[:, None] / 2
    return np.repeat(scale, form.block_size, axis=1)[:, : weight.shape[1]] / 2


@pytest.mark.parametrize("form", FORMATS, ids=str)
@settings(max_examples=25, deadline=None)
@example(weight=np.array([[8.7e-44]], np.float32))
@given(
    weight=arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 150)), elements=st.floats(-1e4, 1e4, width=32)
    )
)
def test_no_weight_is_off_by_more_than_half_a_level(form: Format, weight: np.ndarray) -> None:
    packed = quantize(weight, form)
    found = dequantize(packed, form, weight.shape[1])
    slack = 1e-5 * np.abs(weight).max() + 1e-30
    assert (np.abs(found - weight) <= bound(weight, form) + slack).all()
    for array, part in zip(packed, parts(form, *weight.shape), strict=True):
        assert array.shape == part.shape
        assert array.itemsize == ITEM_BYTES[part.dtype]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rows_do_not_depend_on_each_other(form: Format) -> None:
    weight = np.random.default_rng(0).normal(size=(9, 100)).astype(np.float32)
    whole = quantize(weight, form)
    apart = [quantize(weight[start : start + 2], form) for start in range(0, 9, 2)]
    for index, array in enumerate(whole):
        assert np.concatenate([each[index] for each in apart]).tobytes() == array.tobytes()


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_zeros_stay_zeros(form: Format) -> None:
    weight = np.zeros((2, 40), np.float32)
    assert not dequantize(quantize(weight, form), form, 40).any()


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(form: Format, bad: float) -> None:
    weight = np.ones((2, 40), np.float32)
    weight[1, 3] = bad
    with pytest.raises(MethodError, match="has weights that are NaN or infinite"):
        quantize(weight, form)


def test_a_scale_beyond_float16_is_refused() -> None:
    with pytest.raises(MethodError, match="has weights too large for 4 bits with a float16 scale; use 8 bits"):
        quantize(np.full((1, 32), 1e7, np.float32), Format(4, 32, False))


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ((3, None, True), "--bits: weights take 4 or 8 bits, not 3"),
        ((4, 48, False), "--block: there are no blocks of 48; known: 32, 64, 128"),
        (
            (8, 32, True),
            "--bits 8: 8 bits have one scale per output and no zero points; leave out --block, or take 4 bits",
        ),
    ],
)
def test_formats_that_do_not_exist(settings_: tuple[int, int | None, bool], says: str) -> None:
    with pytest.raises(MethodError) as caught:
        Format(*settings_)
    assert str(caught.value) == says


def test_config_round_trip() -> None:
    for form in FORMATS:
        assert Format.read(form.config(), "x") == form
        assert is_ours({"quantization_config": form.config()})
    assert not is_ours({})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "c.json: its weights are not quantized; 'compress stream FOLDER' writes what can be loaded here"),
        (
            {"quant_method": "gptq"},
            "c.json: its weights are quantized by 'gptq', not by this tool; 'compress stream FOLDER' writes what can "
            "be loaded here",
        ),
        ({"quant_method": "compressor", "version": 9}, "c.json: is of format 9, and this is 1"),
        (
            {"quant_method": "compressor", "version": 1, "bits": 4},
            "c.json: has a damaged quantization_config ('block_size')",
        ),
    ],
)
def test_config_of_another(config: object, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        Format.read(config, "c.json")
    assert str(caught.value) == says
