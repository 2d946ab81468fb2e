from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import MeterError
from compressor.meters import replay
from compressor.meters.base import MeterOptions, energy_between
from compressor.results import MeterInfo, Reading

INFO = MeterInfo("rapl", ("package-0", "core-0"), "measured", "package", 0.001, 6e-5, "a counter", ("package-0",))
READINGS = (
    Reading(10.0, {"package-0": 5.0, "core-0": 2.0}),
    Reading(12.0, {"package-0": 75.0, "core-0": 40.0}),
    Reading(13.0, {"package-0": 80.0}, epoch=1),
)


def test_trace_comes_back_as_it_was_and_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    replay.write_trace(path, INFO, READINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]
    meter = replay.open_meter(str(path), MeterOptions())
    assert (meter.info.name, meter.info.provenance, meter.info.total) == ("replay", "replayed", ("package-0",))
    assert meter.info.source == "trace trace.json of rapl, measured: a counter"
    first, second, third = (meter.read() for _ in range(3))
    assert (first, second, third) == READINGS
    assert energy_between(first, second, "replay") == {"replay/package-0": 70.0, "replay/core-0": 38.0}
    with pytest.raises(MeterError, match=r"trace.json: the trace ends after 3 readings$"):
        meter.read()


def test_what_was_estimated_stays_an_estimate(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    replay.write_trace(path, replace(INFO, name="cpu-time", provenance="estimated"), READINGS)
    info = replay.open_meter(str(path), MeterOptions()).info
    assert (info.provenance, info.source) == ("estimated", "trace trace.json of cpu-time, estimated: a counter")


def trace() -> dict[str, Any]:
    return {
        "meter": {
            **{"name": "rapl", "domains": ["cpu"], "provenance": "measured", "scope": "package"},
            **{"update_period_s": 0.001, "resolution_j": 1e-6, "source": "s"},
        },
        "readings": [{"time_s": 1.0, "energy_j": {"cpu": 3.0}}],
    }


def refused(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(MeterError) as caught:
        replay.open_meter(str(path), MeterOptions())
    return str(caught.value)


def test_bad_traces_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    assert refused(path, "{") == f"{path}: is no JSON"
    mend = "; write one with compressor.meters.replay.write_trace"
    assert refused(path, [1]) == f"{path}: is no trace of readings{mend}"
    assert refused(path, {"meter": trace()["meter"]}) == f"{path}: is no trace of readings{mend}"
    wrong = trace()
    wrong["readings"][0]["energy_j"]["cpu"] = None
    assert refused(path, wrong) == f"{path}: reading 0: 'cpu' is null, no number; leave it out"
    wrong = trace()
    wrong["readings"][0]["energy_j"]["gpu"] = 3.0
    assert refused(path, wrong) == f"{path}: reading 0: has the unknown domain 'gpu'"
    wrong = trace()
    wrong["meter"]["watts"] = 3
    assert refused(path, wrong) == f"{path}: the meter has the unknown key 'watts'"
    wrong = trace()
    wrong["meter"]["scope"] = "room"
    assert refused(path, wrong) == f"{path}: the meter has the unknown scope 'room'"
    wrong = trace()
    wrong["meter"]["provenance"] = "guessed"
    assert refused(path, wrong) == f"{path}: the meter has the unknown provenance 'guessed'"
    with pytest.raises(MeterError, match=r"none.json: cannot be read \(No such file or directory\)$"):
        replay.open_meter(str(tmp_path / "none.json"), MeterOptions())
