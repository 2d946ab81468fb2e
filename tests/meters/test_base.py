from __future__ import annotations

import pytest

from compressor.errors import MeterError
from compressor.meters.base import disjoint, energy_between
from compressor.results import MeterInfo, Reading, Scope


def info(name: str, scope: Scope, *domains: str, total: tuple[str, ...] = ()) -> MeterInfo:
    return MeterInfo(name, domains, "measured", scope, 0.001, 1e-6, "a test", total)


def test_differences_per_domain() -> None:
    assert energy_between(Reading(1, {"a": 2.0, "b": 1.0}), Reading(2, {"a": 5.0, "b": 1.5, "c": 9.0}), "m") == {
        "m/a": 3.0,
        "m/b": 0.5,
    }


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (Reading(0.5, {"a": 3.0}), "m: time ran backwards between two readings"),
        (Reading(2, {"b": 3.0}), "m: lost the domain a in mid-window"),
        (Reading(2, {"a": float("nan")}), "m: counted nan J in m/a, which is no number"),
        (Reading(2, {"a": -262133.0}), "m: counted -262135 J in m/a, less than nothing"),
        (Reading(2, {"a": 262143.0}, epoch=1), "m: lost count between two readings"),
    ],
)
def test_what_cannot_be_is_an_error(end: Reading, message: str) -> None:
    with pytest.raises(MeterError) as caught:
        energy_between(Reading(1, {"a": 2.0}), end, "m")
    assert str(caught.value) == message


def test_trap_total_of_cpu_and_gpu_holds_both() -> None:
    rapl = info("rapl", "package", "package-0", "core-0", "dram-0", total=("package-0", "dram-0"))
    gpus = info("nvml", "device", "gpu-0", "gpu-1")
    assert disjoint([rapl, gpus]) == ("rapl/package-0", "rapl/dram-0", "nvml/gpu-0", "nvml/gpu-1")


def test_meters_that_overlap_are_not_added_up() -> None:
    rapl, again = info("rapl", "package", "package-0"), info("pyrapl", "package", "package-0")
    board, battery = info("hwmon", "board", "vdd_in"), info("battery", "machine", "bat0")
    assert disjoint([board, battery, rapl, again]) == ("rapl/package-0",)
    assert disjoint([battery, board]) == ("hwmon/vdd_in",)
    assert disjoint([battery]) == ("battery/bat0",)
    assert disjoint([]) == ()
