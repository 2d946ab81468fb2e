"""What green-AI research computes of energy: carbon, SCI, energy-precision ratio, label. Pure; see docs/metrics.md.

Every function takes and gives plain numbers in the units of its names; whether the joules were measured is the
caller's to say beside the result.
"""

from __future__ import annotations

JOULES_PER_KWH = 3_600_000
PHONE_CHARGE_J = 0.0116 * JOULES_PER_KWH
"""One charge of a smartphone: 14.46 Wh a day less 22 h of 0.13 W, as the US EPA's equivalencies calculator has it (from
US DOE figures; https://www.epa.gov/energy/greenhouse-gas-equivalencies-calculator-calculations-and-references)."""
CAR_G_PER_KM = 393 / 1.609344
"""A kilometre in the average US passenger vehicle: 3.93e-4 t CO2e per mile, from the same calculator."""
LABELS = (("A", 0.15), ("B", 0.30), ("C", 0.50), ("D", 0.70), ("E", 0.90), ("F", 1.00))
"""Letter and the largest ratio of energy, compressed over original, that earns it; G is any larger one."""


def operational_carbon_g(energy_j: float, intensity_g_per_kwh: float, pue: float = 1.0) -> float:
    """Greenhouse gases of the electricity used: ``kWh × PUE × intensity``.

    Args:
        energy_j: Energy of the computer.
        intensity_g_per_kwh: Of the electricity, g CO2e/kWh.
        pue: Power usage effectiveness (ISO/IEC 30134-2), 1 or more.

    Returns:
        g CO2e.
    """
    return energy_j / JOULES_PER_KWH * pue * intensity_g_per_kwh


def software_carbon_intensity(
    energy_j: float, intensity_g_per_kwh: float, embodied_g: float, pue: float = 1.0
) -> float:
    """Software Carbon Intensity ``((E × I) + M) / R`` for R = one inference.

    Source: ISO/IEC 21031:2024, Software Carbon Intensity (SCI) specification of the Green Software Foundation.

    Args:
        energy_j: E, of one inference, without the building's share.
        intensity_g_per_kwh: I.
        embodied_g: M, the share of one inference in making the hardware.
        pue: Scales E to what the building draws.

    Returns:
        g CO2e per inference.
    """
    return operational_carbon_g(energy_j, intensity_g_per_kwh, pue) + embodied_g


def energy_precision(error: float, energy_j: float, alpha: float) -> float:
    """Energy-precision ratio ``M = Error^alpha × EPI``; smaller is better.

    Source: Lenherr, Pawlitzek and Michel, "New universal sustainability metrics to assess edge intelligence",
    Sustainable Computing: Informatics and Systems 31 (2021), who discuss it among the metrics before theirs.

    Args:
        error: Share of wrong answers, 0..1.
        energy_j: EPI, energy per item classified.
        alpha: Weight of the error; the larger, the more an error costs.

    Returns:
        In J.
    """
    return error**alpha * energy_j


def energy_label(ratio_high: float) -> str:
    """Letter A to G for a measured ratio of energy.

    Args:
        ratio_high: The pessimistic end of the ratio's 95 % interval, compressed over original.

    Returns:
        The letter; :data:`LABELS` has the bounds.
    """
    return next((letter for letter, bound in LABELS if ratio_high <= bound and (bound < 1 or ratio_high < 1)), "G")


def phone_charges(energy_j: float) -> float:
    """How often the energy would charge a smartphone."""
    return energy_j / PHONE_CHARGE_J


def car_km(carbon_g: float) -> float:
    """How far the average US passenger vehicle gets on the same greenhouse gases, in km."""
    return carbon_g / CAR_G_PER_KM


def rebound(ratio: float) -> float:
    """How many times the use has to grow to eat the whole saving per inference: ``1 / ratio``."""
    return 1 / ratio
