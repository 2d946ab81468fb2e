import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor import footprint

POSITIVE = st.floats(1e-6, 1e6)


def test_a_kilowatt_hour_emits_the_intensity():
    assert footprint.operational_carbon_g(3_600_000, 344.0) == 344.0
    assert footprint.operational_carbon_g(3_600_000, 344.0, pue=1.5) == 516.0


def test_sci_adds_the_embodied_share():
    assert footprint.software_carbon_intensity(3_600_000, 344.0, 6.0, pue=1.5) == 522.0


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 0.02), (2.0, 0.002), (0.5, 0.2 * 0.1**0.5)])
def test_energy_precision_weighs_the_error(alpha, expected):
    assert footprint.energy_precision(0.1, 0.2, alpha) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "letter"),
    [
        *((0.01, "A"), (0.15, "A"), (0.151, "B"), (0.3, "B"), (0.5, "C")),
        *((0.7, "D"), (0.9, "E"), (0.99, "F"), (1.0, "G"), (5.0, "G")),
    ],
)
def test_the_label_s_thresholds(ratio, letter):
    assert footprint.energy_label(ratio) == letter


@given(POSITIVE, POSITIVE)
def test_a_larger_ratio_never_gets_a_better_letter(one, other):
    low, high = sorted((one, other))
    assert footprint.energy_label(low) <= footprint.energy_label(high)


def test_everyday_equivalents():
    assert footprint.phone_charges(41_760) == pytest.approx(1)
    assert footprint.car_km(393 / 1.609344) == pytest.approx(1)


@given(st.floats(0.01, 0.99), POSITIVE)
def test_the_rebound_eats_exactly_the_saving(ratio, joules):
    assert footprint.rebound(ratio) * ratio * joules == pytest.approx(joules)
