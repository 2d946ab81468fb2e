"""Carbon intensity of electricity by country: a table that ships with the package and needs no network."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from compressor.errors import RecipeError, nearest
from compressor.results import Usage

SOURCE = "Ember and Energy Institute via Our World in Data, CC BY 4.0"
"""Where ``grid.csv`` is from; ``SOURCE.txt`` beside it says it in full."""
LARGEST = 1e18
"""No figure of use is larger; products of such figures are still finite."""


@dataclass(frozen=True)
class Grid:
    """The electricity of a country, in the yearly mean.

    Attributes:
        code: ISO 3166-1 code of two letters; ``WORLD`` for the world.
        name: The country's name.
        year: Year of the figure.
        g_per_kwh: Greenhouse gases per unit of electricity generated, g CO2e/kWh, over the plants' life cycle.
    """

    code: str
    name: str
    year: int
    g_per_kwh: float


@functools.cache
def _table() -> dict[str, Grid]:
    """Grids by code, of two letters and of three."""
    found: dict[str, Grid] = {}
    text = (resources.files("compressor.carbon") / "grid.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        one = Grid(row["code"], row["name"], int(row["year"]), float(row["g_per_kwh"]))
        found[row["code"]] = found[row["code3"]] = one
    return found


def countries() -> tuple[Grid, ...]:
    """Every country of the table, by code."""
    return tuple(sorted(set(_table().values()), key=lambda grid: grid.code))


def grid(country: str) -> Grid:
    """The electricity of a country.

    Args:
        country: ISO 3166-1 code of two or three letters, or ``WORLD``; case does not matter.

    Returns:
        Its row of the table.

    Raises:
        RecipeError: The table does not have it.
    """
    code = country.strip().upper()
    if code in _table():
        return _table()[code]
    by_name = {one.name.upper(): one for one in countries()}
    if code in by_name:
        return by_name[code]
    known = {one.code: one for one in countries()}
    close = nearest(country, [one.name for one in known.values()]).split("?")[0]
    hint = f"{close}? " if close.startswith("did you mean") else ""
    raise RecipeError(
        f"there is no carbon intensity for {country[:40]!r}",
        where="--country",
        mend=f"{hint}give a code such as DE, US or WORLD, or the intensity itself with --carbon-intensity",
    )


def wrong(usage: Usage) -> Iterator[tuple[str, str]]:
    """What in a statement of use cannot be so.

    Args:
        usage: Where and how often the model will run.

    Yields:
        The field, and what is wrong with it.
    """
    if usage.country is not None and usage.country.strip().upper() not in _table():
        yield "country", f"is {usage.country[:40]!r}, which the table of carbon intensities does not have"
    for name in ("intensity_g_per_kwh", "pue", "inferences", "training_kwh", "embodied_g", "alpha"):
        value = getattr(usage, name)
        if value is not None and not abs(value) <= LARGEST:  # NaN is not either
            yield name, f"is no number up to {LARGEST:g}"
    if usage.pue < 1:
        yield "pue", f"is {usage.pue:g}; a building draws at least what its computers do, so 1 or more"
    for name, value in (
        ("intensity_g_per_kwh", usage.intensity_g_per_kwh),
        ("training_kwh", usage.training_kwh),
        ("embodied_g", usage.embodied_g),
    ):
        if value is not None and value < 0:
            yield name, f"is {value:g}, less than nothing"
    if usage.inferences is not None and usage.inferences < 1:
        yield "inferences", f"is {usage.inferences}; a model that is used is used at least once"
    if usage.embodied_g is not None and usage.inferences is None:
        yield "embodied_g", "is given without the number of uses that it is shared among"
    if usage.alpha <= 0:
        yield "alpha", f"is {usage.alpha:g}; the error's weight is above 0"
    for fraction, score in usage.data_efficiency:
        if not 0 < fraction <= 1:
            yield "data_efficiency", f"holds the fraction {fraction:g} of the training data, not one in 0..1"
        if not abs(score) <= LARGEST:
            yield "data_efficiency", f"holds a score that is no number up to {LARGEST:g}"
