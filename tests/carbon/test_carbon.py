import csv
import math
from importlib import resources

import pytest

from compressor.carbon import countries, grid, wrong
from compressor.errors import RecipeError
from compressor.results import Usage


def test_codes_of_two_and_three_letters_and_names_find_the_same_row():
    assert grid("DE") == grid("deu") == grid(" Germany ")
    assert (grid("DE").g_per_kwh, grid("DE").year) == (344, 2024)
    assert (grid("WORLD").name, grid("WORLD").g_per_kwh) == ("World", 473)


def test_the_table_is_sound_and_says_its_year_and_source():
    folder = resources.files("compressor.carbon")
    rows = list(csv.DictReader((folder / "grid.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(countries()) == len({row["code"] for row in rows}) > 150
    assert all(2023 <= int(row["year"]) <= 2024 and 0 <= float(row["g_per_kwh"]) < 1500 for row in rows)
    source = (folder / "SOURCE.txt").read_text(encoding="utf-8")
    assert "Creative Commons Attribution 4.0" in source
    assert "Our World in Data" in source


def test_an_unknown_country_names_the_nearest():
    with pytest.raises(RecipeError) as caught:
        grid("Germny")
    assert str(caught.value) == (
        "--country: there is no carbon intensity for 'Germny'; did you mean 'Germany'? "
        "give a code such as DE, US or WORLD, or the intensity itself with --carbon-intensity"
    )


@pytest.mark.parametrize(
    ("usage", "said"),
    [
        (Usage(), []),
        (Usage("DE", None, 1.2, 10, 0.5, 3.0, 2.0, ((0.1, 0.5),)), []),
        (Usage(pue=1.0, inferences=1, intensity_g_per_kwh=0, data_efficiency=((1.0, 0.9),)), []),
        (Usage(country="XX"), [("country", "is 'XX', which the table of carbon intensities does not have")]),
        (Usage(pue=0.9), [("pue", "is 0.9; a building draws at least what its computers do, so 1 or more")]),
        (Usage(intensity_g_per_kwh=-1), [("intensity_g_per_kwh", "is -1, less than nothing")]),
        (Usage(training_kwh=-1), [("training_kwh", "is -1, less than nothing")]),
        (Usage(inferences=0), [("inferences", "is 0; a model that is used is used at least once")]),
        (Usage(embodied_g=1), [("embodied_g", "is given without the number of uses that it is shared among")]),
        (Usage(alpha=0), [("alpha", "is 0; the error's weight is above 0")]),
        *((Usage(pue=value), [("pue", "is no number up to 1e+18")]) for value in (math.nan, math.inf, 1e300)),
        (Usage(training_kwh=math.nan), [("training_kwh", "is no number up to 1e+18")]),
        (Usage(inferences=10**400), [("inferences", "is no number up to 1e+18")]),
        (
            Usage(data_efficiency=((0.5, math.nan),)),
            [("data_efficiency", "holds a score that is no number up to 1e+18")],
        ),
        (
            Usage(data_efficiency=((1.5, 0.9),)),
            [("data_efficiency", "holds the fraction 1.5 of the training data, not one in 0..1")],
        ),
    ],
)
def test_what_cannot_be_so_is_named(usage, said):
    assert list(wrong(usage)) == said
